"""Generated from `atoll/demo/v1`: the service `FaultService`."""
