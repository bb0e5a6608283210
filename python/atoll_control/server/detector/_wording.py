"""The detector's sentences for people: each has the numbers that it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll_control.server.detector._actions import Cause
from atoll_control.server.detector._settings import LATE_TOLERANCE
from atoll_control.server.detector._watched import Phase

if TYPE_CHECKING:
    from atoll_control.server.detector._settings import Thresholds
    from atoll_control.server.detector._watched import Watched


def suspected(watched: Watched, now: float, not_counted: float, times: Thresholds) -> str:
    """Why a node has turned suspect."""
    text = _silence(watched, now, not_counted)
    if watched.closed_at is not None:
        text += (
            f"; it closed its last connection {now - watched.closed_at:.2f} s ago (suspect after "
            f"{times.closed_suspect_after:g} s)"
        )
    else:
        text += f" (suspect after {times.suspect_after:g} s)"
    return text + _stretched(times)


def refuted(watched: Watched, suspected_for: float) -> str:
    """How a suspect has turned out to be alive."""
    text = f"a heartbeat arrived {suspected_for:.2f} s after the node had become suspect"
    if watched.probe_failed:
        text += ", although a probe of it had failed"
    if watched.would_have_died:
        text += "; it would have been declared dead wrongly"
    return text


def died(watched: Watched, now: float, cause: Cause, not_counted: float, times: Thresholds) -> str:
    """Why a node is dead."""
    limit = times.mute_after if cause is Cause.MUTE else times.dead_after
    text = f"{_silence(watched, now, not_counted)} (dead after {limit:g} s)"
    if watched.probes:
        last = watched.probes[-1]
        ago = now - last.ended_at
        text += f"; probe answered {ago:.2f} s ago" if last.ok else f"; probe failed {ago:.2f} s ago: {last.error}"
    else:
        text += "; no probe has ended"
    if watched.closed_at is not None:
        text += f"; it closed its last connection {now - watched.closed_at:.2f} s ago"
    return text + _stretched(times)


def verdict(
    watched: Watched, now: float, not_counted: float, verdict_in: float, withheld: str, *, observe_only: bool
) -> str:
    """What the detector holds a node for, for `explain`."""
    if watched.death is not None:
        return f"dead: {watched.death.reason}"
    silence = _silence(watched, now, not_counted)
    if watched.phase is Phase.ALIVE:
        return f"alive: {silence}"
    text = f"suspect for {now - watched.suspected_at:.2f} s: {silence}"
    if watched.would_have_died:
        return f"{text}; would have been declared dead (observe-only)"
    text += f"; {'would be ' if observe_only else ''}declared dead "
    text += f"in {verdict_in:.2f} s unless it is heard of" if verdict_in > 0 else "when a probe has failed"
    return f"{text}; withheld: {withheld}" if withheld else text


def _silence(watched: Watched, now: float, not_counted: float) -> str:
    text = f"no heartbeat for {now - watched.heard:.2f} s"
    if not_counted >= LATE_TOLERANCE:
        text += f", of which {not_counted:.2f} s do not count because the server itself was late"
    return text


def _stretched(times: Thresholds) -> str:
    return f"; times are stretched by {times.stretch:.2f} for local health" if times.stretch > 1 else ""
