"""Generated from `atoll/demo`: what only the demo uses."""
