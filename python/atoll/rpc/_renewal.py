"""The thread `atoll-certificates`: asks every now and then whether there are new certificates.

Neither a loop nor a network thread: whom it asks may take its time, and a handshake waits for nobody. The thread begins
when a port begins to use the certificates and ends when they are gone.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

_logger = logging.getLogger("atoll.rpc")

# (pairs, roots), or None when there is nothing new.
Fetched = tuple[Sequence[tuple[bytes, bytes]], bytes | None] | None


class Replaceable(Protocol):
    """A `ServerCertificates`."""

    def replace(
        self, private_key_certificate_chain_pairs: Sequence[tuple[bytes, bytes]], root_certificates: bytes | None
    ) -> None:
        """Uses other certificates from now on."""


class Renewal:
    """How certificates are renewed. Knows the certificates by a weak reference only.

    Args:
        seconds: Between two questions.
        fetch: Returns what is new. On the thread `atoll-certificates`, or on that of who calls `renew`; never on two at
            once.
        used: Told what has come into use.

    Raises:
        ValueError: When `seconds` is not positive.
    """

    def __init__(
        self,
        seconds: float,
        fetch: Callable[[], Fetched],
        used: Callable[[Sequence[tuple[bytes, bytes]], bytes | None], object] | None = None,
    ) -> None:
        """Nothing runs yet."""
        if not 0 < seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"refresh={seconds!r} is not a positive number of seconds")
        self._seconds = seconds
        self._fetch = fetch
        self._used = used
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, certificates: Replaceable) -> None:
        """Starts the thread, unless it runs."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            if self._thread is None:
                weakref.finalize(certificates, self._gone.set)
            self._thread = threading.Thread(
                target=self._run, args=(weakref.ref(certificates),), name="atoll-certificates", daemon=True
            )
            self._thread.start()

    def renew(self, certificates: Replaceable) -> bool:
        """Asks now. Returns whether there was something new; raises what the fetching raises."""
        with self._lock:
            fetched = self._fetch()
            if fetched is None:
                return False
            certificates.replace(*fetched)
            if self._used is not None:
                self._used(*fetched)
            return True

    def _run(self, reference: "weakref.ref[Replaceable]") -> None:
        while not self._gone.wait(self._seconds):
            certificates = reference()
            if certificates is None:
                return
            try:
                renewed = self.renew(certificates)
            except Exception as error:  # noqa: BLE001 - whatever a fetcher raises
                _logger.warning("the certificates could not be renewed, and the present ones stay in use: %r", error)
            else:
                if renewed:
                    _logger.info("the certificates have been renewed")
            del certificates
