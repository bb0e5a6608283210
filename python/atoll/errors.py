"""Everything that Atoll raises of its own.

Each class says who caused the error and what to do about it.
"""

__all__ = [
    "AbortError",
    "AtollError",
    "BindError",
    "CertificateError",
    "ChaosConfigurationError",
    "CommitTooLargeError",
    "CompactedError",
    "ConnectionClosedError",
    "DeadlineExceededError",
    "DeadlockError",
    "ForkedError",
    "LoopClosedError",
    "LoopRunningError",
    "MailboxFull",
    "NotLeaderError",
    "NotOnLoopError",
    "OutcomeUnknownError",
    "OwnerFullError",
    "PingTimeoutError",
    "PlacementError",
    "RegistrationError",
    "ServerStateError",
    "SnapshotExpiredError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFencedError",
    "StoreFullError",
    "StoreLockedError",
    "StoreUnavailableError",
]


class AtollError(Exception):
    """The root of all errors that Atoll raises of its own."""


class MailboxFull(AtollError):  # noqa: N818 - the name says what is the case, like queue.Full
    """A loop has fallen behind and its mailbox has reached its bound; nothing was queued.

    The poster decides: wait and post again, give up the work, or construct the loop with a larger `max_queued`.
    """


class LoopClosedError(AtollError):
    """You posted to a loop that has been closed, which runs nothing any more."""


class LoopRunningError(AtollError):
    """You asked a loop that is running (or belongs to somebody else) for what only a resting loop can do."""


class ForkedError(AtollError):
    """You used a loop, store or election of the parent in a forked child, which has none of its threads. Make one."""


class NotOnLoopError(AtollError):
    """You called something that belongs to a loop from outside that loop. Post to the loop instead."""


class AbortError(AtollError):
    """Your handler aborted its call: `context.abort()` raises it to end the handler. Let it pass."""


class BindError(AtollError, RuntimeError):
    """The address that you gave can't be listened on: in use, not this machine's, or not an address."""


class CertificateError(AtollError, ValueError):
    """Your certificates or keys can't be used: not PEM, not a pair, or not there. The message says which, and why."""


class ChaosConfigurationError(AtollError, ValueError):
    """Your setting of delays or fault sites can't be understood. The message points at the place and shows a right one.

    Attributes:
        entry: The entry of the setting that is wrong; None when no text was read.
        column: Where in the setting's text the mistake is, from 1 on; None when no text was read.
    """

    entry: str | None = None
    column: int | None = None


class ConnectionClosedError(AtollError, ConnectionError):
    """You pinged a client whose connection has ended, or it ended meanwhile. Its next call comes on another one."""


class PingTimeoutError(AtollError, TimeoutError):
    """A client did not answer your ping in time: it is stopped, cut off or busy. It may answer later."""


class DeadlineExceededError(AtollError, TimeoutError):
    """A call of yours to another module was not answered in the time that its caller had; its handler is cancelled."""


class DeadlockError(AtollError):
    """You would have blocked a loop's thread until some loop, maybe this one, had run a handler. Await it instead."""


class PlacementError(AtollError, TypeError):
    """A policy, or its use, contradicts itself. Nothing has started; the message says how to mend it."""


class RegistrationError(AtollError, TypeError):
    """You asked a server for a servicer that it can't add; the message says what it takes."""


class ServerStateError(AtollError):
    """You asked a server for what it can't do in its present state, such as adding a service after its start."""


class StoreError(AtollError):
    """The root of what a store raises. Of this class itself: the system refused something; the message says what."""


class StoreLockedError(StoreError):
    """Another process has the store that you open. The message names it; stop it, or open another."""


class StoreCorruptError(StoreError):
    """The store's file is damaged or something else. Restore a backup; the file is left as it is."""


class StoreFullError(StoreError):
    """The disk or the quota of the store is full. Nothing was changed and reads go on; make room, then try again."""


class StoreBusyError(StoreError):
    """You submitted more than the store can make durable. Nothing was changed; try again later."""


class CommitTooLargeError(StoreError, ValueError):
    """Your batch is larger than a limit, which the message names. Nothing was changed; split it."""


class OwnerFullError(StoreError):
    """An owner would have more rows than can be deleted in one batch. Nothing was changed; use several owners."""


class StoreFencedError(StoreError):
    """Another server writes to the store now. Nothing was changed; this one has to stop."""


class NotLeaderError(StoreError):
    """This server's lease has run out, so that what it knows may be old. Ask the leader."""


class OutcomeUnknownError(StoreError):
    """It is not known whether your batch was committed. Read before you send it again."""


class StoreUnavailableError(StoreError):
    """The engine can't be reached or refuses. Nothing was changed; the message says whether to try again."""


class StoreClosedError(StoreError):
    """You used a store that is closed. Nothing was changed."""


class SnapshotExpiredError(StoreError):
    """Too much has changed since your snapshot was taken. Take another, and read it faster."""


class CompactedError(StoreError):
    """The changes that you asked for are no longer kept. Read a snapshot, and go on from its revision.

    Attributes:
        oldest: The oldest revision after which all changes can be told.
    """

    def __init__(self, message: str, oldest: int) -> None:
        """Made by the store."""
        super().__init__(message)
        self.oldest = oldest

    def __reduce__(self) -> tuple[type["CompactedError"], tuple[str, int]]:
        """As it was made, for other processes."""
        return type(self), (str(self), self.oldest)
