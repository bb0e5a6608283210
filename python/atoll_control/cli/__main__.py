"""`python -m atoll_control.cli`: the command `atollctl`."""

from atoll_control.cli import main

main()
