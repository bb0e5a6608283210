"""`atoll_control.testing.server_process`."""

from __future__ import annotations

import itertools

import pytest

from atoll_control.testing.server_process import LoggedProcess, ProcessFailedError


def test_an_event_that_can_not_come_any_more_is_an_error_at_once_with_what_was_said() -> None:
    with (
        LoggedProcess("serve", "--listen", "nowhere") as process,
        pytest.raises(ProcessFailedError, match=r"ended and has not logged 'server_started', but:\n.*--listen"),
    ):
        process.wait_for("server_started")


def test_events_are_told_in_order_and_the_last_ones_of_a_process_that_has_ended_too() -> None:
    with LoggedProcess("serve", "--listen", "127.0.0.1:0", "--log-format", "json") as process:
        started = process.wait_for("server_started")
        assert process.stop() == 0
        assert process.lines[-1]["event"] == "server_stopped"
        assert list(itertools.islice(process.each("server_started"), 1)) == [started]
        assert process.count("server_started") == 1
