"""Why an agent does not start, or does not go on. The messages are for people, and carry the remedy."""

from __future__ import annotations

from atoll.errors import AtollError

__all__ = ["AgentError", "PlaceTakenError", "RegistrationRefusedError", "StateError", "StateInUseError"]


class AgentError(AtollError):
    """The root of what ends an agent."""


class StateError(AgentError):
    """The state directory can't be used: the message says what is wrong with which file."""


class StateInUseError(AgentError):
    """Another agent has the state directory: stop it, or give this one a directory of its own."""


class PlaceTakenError(AgentError):
    """Another process is this node now. Two machines share a state directory, or a copy of one: give each its own."""


class RegistrationRefusedError(AgentError):
    """The server refuses what the agent says of itself, such as its labels: the message names it."""
