"""`python -m atoll.cli`: the command `atoll`."""

from atoll.cli import main

main()
