"""`Router` and `Attempts`: to which server a call goes, when it is tried again, and when it is given up. No I/O.

A client has one router, which its calls share: it knows where the leader was last. Only that address is written, as a
whole, so any thread may enter. Each call has its own `Attempts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from atoll_control.client._safety import Repeat, repeat_of, was_done
from atoll_control.client.errors import UnknownOutcomeError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from atoll_control.client._failure import Failure
    from atoll_control.client.errors import ClientError

# Pauses between attempts, in seconds: the first, and the longest. Each is shortened by up to half, by chance, so that
# many clients of a server that went do not come back at once.
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
# So many times a call follows a server's word on where the leader is without a pause.
MAX_HOPS: Final = 3
# Where there are several servers, an attempt of a call that may be repeated gets a share of the call's time, and so
# many seconds at least: a server that is stopped answers nothing, not even that it is not there.
ATTEMPT_SHARE: Final = 1 / 3
MIN_ATTEMPT_TIME: Final = 1.0


def pause(number: int, chance: float) -> float:
    """How long to wait before the attempt with this number, from 1 on; `chance` is from 0 to 1."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(number - 1, 30)) * (1 - chance / 2)


class Router:
    """Where calls go.

    Attributes:
        endpoints: those that the client was given.
        current: where the next attempt goes; it may be one that a server has named.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        """Begins with the first."""
        self.endpoints = tuple(endpoints)
        self.current = self.endpoints[0]
        self._last = 0

    def failed(self, endpoint: str, failure: Failure) -> bool:
        """An attempt there was not answered.

        Returns:
            Whether the server has named another one.
        """
        if failure.leader and failure.leader != endpoint:
            self.current = failure.leader
            return True
        if self.current == endpoint:
            if endpoint in self.endpoints:
                self._last = self.endpoints.index(endpoint)
            self._last = (self._last + 1) % len(self.endpoints)
            self.current = self.endpoints[self._last]
        return False


class Attempts:
    """The attempts of one call."""

    def __init__(
        self,
        router: Router,
        method: str,
        request: Any,
        *,
        timeout: float,
        now: float,
        chance: Callable[[], float],
        wait_for_server: bool = True,
    ) -> None:
        """Begins.

        Args:
            router: of the client.
            method: the path.
            request: what is sent.
            timeout: seconds for all attempts together.
            now: by any monotonic clock.
            chance: gives numbers from 0 to 1.
            wait_for_server: go on when no endpoint can be connected to.
        """
        self._router = router
        self._method = method.rpartition("/")[2]
        self._repeat = repeat_of(method, request)
        self._timeout = timeout
        self._give_up_at = now + timeout
        self._chance = chance
        self._wait_for_server = wait_for_server
        self._number = 0
        self._hops = 0
        self._not_connected: set[str] = set()
        # An attempt that may have been done.
        self._in_doubt: Failure | None = None
        self.endpoint = router.current

    def begin(self, now: float, *, is_stream: bool = False) -> float:
        """Begins an attempt at `endpoint`; the seconds that it gets.

        Args:
            now: by the clock.
            is_stream: the seconds are for all that is answered, so the attempt gets what is left.
        """
        self.endpoint = self._router.current
        left = max(0.0, self._give_up_at - now)
        is_repeated = self._repeat is Repeat.READ or self._repeat is Repeat.SAFE
        if is_repeated and not is_stream and len(self._router.endpoints) > 1:
            return min(left, max(MIN_ATTEMPT_TIME, self._timeout * ATTEMPT_SHARE))
        return left

    def failed(self, failure: Failure, now: float) -> float:
        """An attempt has failed; the seconds to wait before the next one.

        Raises:
            ClientError: there is none.
        """
        if failure.is_refusal:
            if self._in_doubt is not None and self._repeat is not Repeat.SAFE:
                raise self._unknown(failure)
            raise failure.error()
        is_hint = self._router.failed(self.endpoint, failure)
        if not failure.is_not_done and self._repeat is not Repeat.READ:
            self._in_doubt = failure
        if not self._may_repeat(failure):
            raise failure.error() if self._repeat is Repeat.READ else self._unknown(failure)
        delay = self._delay(is_hint=is_hint)
        if failure.was_not_sent:
            self._not_connected.add(self.endpoint)
        else:
            self._not_connected.clear()
        nobody_there = not self._wait_for_server and self._not_connected.issuperset(self._router.endpoints)
        if nobody_there or now + delay >= self._give_up_at:
            raise self._unknown(failure) if self._in_doubt is not None else self._unreachable(failure)
        return delay

    def checked(self, response: Any) -> None:
        """An attempt was answered.

        Raises:
            UnknownOutcomeError: its condition did not hold, maybe because of an earlier attempt.
        """
        if self._in_doubt is not None and self._repeat is Repeat.CONDITIONAL and not was_done(response):
            raise self._unknown(self._in_doubt)

    def _may_repeat(self, failure: Failure) -> bool:
        if failure.status is grpc.StatusCode.UNAVAILABLE:
            return failure.is_not_done or self._repeat is not Repeat.NEVER
        if failure.status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._repeat is Repeat.READ or self._repeat is Repeat.SAFE
        return False

    def _delay(self, *, is_hint: bool) -> float:
        if is_hint and self._hops < MAX_HOPS:
            self._hops += 1
            return 0.0
        self._number += 1
        return pause(self._number, self._chance())

    def _unknown(self, failure: Failure) -> ClientError:
        message = (
            f"{self._method}: whether it was done is not known: {failure.details} ({failure.status.name} from "
            f"{self.endpoint}); read before you send it again"
        )
        return UnknownOutcomeError(message, failure.status)

    def _unreachable(self, failure: Failure) -> ClientError:
        return unreachable(self._router, self.endpoint, failure)


def unreachable(router: Router, endpoint: str, failure: Failure) -> UnreachableError:
    """What to say when no server answers."""
    others = [each for each in router.endpoints if each != endpoint]
    where = endpoint + (f" (nor from {', '.join(others)})" if others else "")
    message = f"no answer from {where}: {failure.details}; is the server running there?"
    return UnreachableError(message, failure.status)
