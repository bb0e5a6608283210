"""`atoll top`: what the loops of a running process are doing.

- `_client`: asks the process.
- `_snapshot`: what it answered, and what follows from two answers.
- `_render`: that as text, for both ways of showing it.
- `_once`: once, for scripts.
- `_app`: the live view.
- `_command`: the command line.
"""
