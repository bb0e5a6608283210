"""`/livez`, `/readyz` and systemd: what is told of loops that are stuck, and of what the application knows."""

import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.errors import BindError
from atoll.observe import Condition, LoopMonitor, MonitorOptions, ObserveEndpoint, Readiness, SystemdNotifier

PATIENCE = 30.0


def get(endpoint: ObserveEndpoint, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{endpoint.address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - http
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"there was never {what}"
        time.sleep(0.005)
    return found


@pytest.fixture
def stuck() -> Iterator[atoll.IoContext]:
    """A loop whose handler does not end before the test does."""
    let_go = threading.Event()
    with atoll.IoContextThread("kv") as thread:
        thread.io_context.post(let_go.wait, PATIENCE, name="KvService.Put")
        yield thread.io_context
        let_go.set()


QUICK = MonitorOptions(interval=0.005, deadline=0.02, stall_threshold=math.inf)

# --------------------------------------------------------------------------------------------------------- /livez


def test_a_loop_that_makes_no_progress_for_longer_than_the_threshold_ends_life(stuck: atoll.IoContext) -> None:
    with LoopMonitor(QUICK) as monitor, ObserveEndpoint("127.0.0.1:0", liveness_threshold=0.1) as endpoint:
        monitor.watch(stuck)
        text = wait_for(lambda: (it := get(endpoint, "/livez"))[0] == 503 and it[1], "an end of life")
        said = text.removesuffix("\n").split("; ")
        assert said[0].startswith("loop kv has made no progress for ")
        assert said[1].startswith("KvService.Put runs for ")


def test_without_a_threshold_it_lives_and_is_not_ready(stuck: atoll.IoContext) -> None:
    with LoopMonitor(QUICK) as monitor, ObserveEndpoint("127.0.0.1:0") as endpoint:
        monitor.watch(stuck)
        text = wait_for(lambda: (it := get(endpoint, "/readyz"))[0] == 503 and it[1], "unreadiness")
        assert text.startswith("[-]loops: loop kv is unhealthy: a probe has waited ")
        assert "KvService.Put runs for " in text
        expected = "alive; 1 loops are watched, of which 1 unhealthy: see /readyz\n"
        assert get(endpoint, "/livez") == (200, expected)


def test_a_loop_that_goes_on_lives_again_and_one_that_does_not_count_never_died() -> None:
    let_go = threading.Event()
    with (
        atoll.IoContextThread("one") as one,
        atoll.IoContextThread("other") as other,
        LoopMonitor(QUICK) as monitor,
        ObserveEndpoint("127.0.0.1:0", liveness_threshold=0.05) as endpoint,
    ):
        monitor.watch(one.io_context)
        monitor.watch(other.io_context, counts_for_health=False)
        for thread in (one, other):
            thread.io_context.post(let_go.wait, PATIENCE)
        text = wait_for(lambda: (it := get(endpoint, "/livez"))[0] == 503 and it[1], "an end of life")
        assert "loop one" in text
        assert "other" not in text
        let_go.set()
        wait_for(lambda: get(endpoint, "/livez")[0] == 200, "life")
        wait_for(lambda: get(endpoint, "/readyz")[0] == 200, "readiness")


def test_a_threshold_is_a_time() -> None:
    for wrong in (0, -1, math.nan):
        with pytest.raises(ValueError, match="positive number of seconds"):
            ObserveEndpoint("127.0.0.1:0", liveness_threshold=wrong)
        with pytest.raises(ValueError, match="positive number of seconds"):
            SystemdNotifier(liveness_threshold=wrong)


# -------------------------------------------------------------------------------------------------------- /readyz


def test_ready_is_who_meets_all_conditions() -> None:
    readiness = Readiness()
    with ObserveEndpoint("127.0.0.1:0", readiness=readiness) as endpoint:
        assert get(endpoint, "/readyz") == (200, "readyz check passed\n")
        readiness.set("store", ok=True)
        readiness.set("leader", ok=False, reason="standby of 10.0.0.1")
        expected = "[-]leader: standby of 10.0.0.1\n[+]store ok\nreadyz check failed\n"
        assert get(endpoint, "/readyz") == (503, expected)
        status, body = get(endpoint, "/readyz", Accept="application/json")
        assert (status, json.loads(body)) == (
            503,
            {
                "ready": False,
                "conditions": [
                    {"name": "leader", "ok": False, "reason": "standby of 10.0.0.1"},
                    {"name": "store", "ok": True, "reason": ""},
                ],
            },
        )
        assert get(endpoint, "/readyz?format=json")[1] == body
        assert not readiness.is_ready
        threading.Thread(target=readiness.set, args=("leader",), kwargs={"ok": True}).start()
        wait_for(lambda: get(endpoint, "/readyz")[0] == 200, "readiness")
        assert readiness.remove("leader")
        assert not readiness.remove("leader")
        assert readiness.conditions() == (Condition("store", ok=True, reason=""),)


def test_a_condition_that_nobody_renews_holds_no_longer() -> None:
    readiness = Readiness()
    with ObserveEndpoint("127.0.0.1:0", readiness=readiness) as endpoint:
        readiness.set("leader", ok=True, time_to_live=60.0)
        assert get(endpoint, "/readyz")[0] == 200
        readiness.set("leader", ok=True, time_to_live=0.01)
        text = wait_for(lambda: (it := get(endpoint, "/readyz"))[0] == 503 and it[1], "unreadiness")
        assert text.startswith("[-]leader: said to hold ")
        assert "for 0.01 s" in text


def test_what_is_no_condition_is_refused_with_a_word_on_what_is() -> None:
    readiness = Readiness()
    for name in ("", "a name", "a\nb"):
        with pytest.raises(ValueError, match="is no name of a condition"):
            readiness.set(name, ok=True)
    for time_to_live in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="time_to_live"):
            readiness.set("a", ok=True, time_to_live=time_to_live)
    for number in range(100):
        readiness.set(f"c{number}", ok=True)
    with pytest.raises(ValueError, match=r"the most there may be: remove\(\)"):
        readiness.set("more", ok=True)


HOLDS_THE_GIL = """
import re, sys
import atoll
from atoll.observe import LoopMonitor, MonitorOptions, ObserveEndpoint, Readiness

readiness = Readiness()
readiness.set("store", ok=True)
readiness.set("owner", ok=True, time_to_live=0.05)
with LoopMonitor(MonitorOptions(interval=0.005, deadline=0.05)) as monitor, atoll.IoContextThread("module") as thread:
    monitor.watch(thread.io_context)
    with ObserveEndpoint("127.0.0.1:0", liveness_threshold=0.1, readiness=readiness) as endpoint:
        print(endpoint.address, flush=True)
        sys.stdin.readline()
        thread.io_context.submit(re.match, r"(a+)+$", "a" * 26 + "b").result()
        print("over", flush=True)
        sys.stdin.readline()
"""


def test_all_is_told_while_one_c_call_holds_the_gil() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_GIL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint: Any = type("Endpoint", (), {"address": process.stdout.readline().strip()})
        process.stdin.write("hold\n")
        process.stdin.flush()
        over = threading.Thread(target=process.stdout.readline)
        over.start()
        alive, ready = set(), set()
        while over.is_alive():
            alive.add(get(endpoint, "/livez")[0])
            status, text = get(endpoint, "/readyz")
            if status == 503:
                ready.add(("[+]store ok" in text, "[-]owner: said to hold" in text, "[-]loops: loop module" in text))
        process.stdin.write("end\n")
        process.stdin.flush()
    assert 503 in alive
    assert (True, True, True) in ready


# ------------------------------------------------------------------------------------------------- other machines


def test_other_machines_are_served_only_where_that_is_asked_for() -> None:
    with pytest.raises(BindError, match="beyond_loopback"):
        ObserveEndpoint("0.0.0.0:0").start()
    with ObserveEndpoint("0.0.0.0:0", beyond_loopback=True) as endpoint:
        port = endpoint.address.rpartition(":")[2]
        here: Any = type("Endpoint", (), {"address": f"127.0.0.1:{port}"})
        assert get(here, "/livez")[0] == 200
        assert get(here, "/top")[0] == 200


# -------------------------------------------------------------------------------------------------------- systemd


class Systemd:
    """What listens at `NOTIFY_SOCKET`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(PATIENCE)

    def next(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(
    params=["path", pytest.param("abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="is Linux's"))]
)
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@atoll-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    listening = Systemd(address)
    with listening.socket:
        yield listening


def test_systemd_is_told_what_the_service_says(systemd: Systemd) -> None:
    with SystemdNotifier() as notifier:
        assert notifier.is_supervised
        assert notifier.ready("serving")
        assert [systemd.next(), systemd.next()] == ["READY=1", "STATUS=serving"]
        assert notifier.status("of two\nlines")
        assert systemd.next() == "STATUS=of two lines"
    assert systemd.next() == "STOPPING=1"
    assert [notifier.is_supervised, notifier.ready()] == [False, False]


def test_the_watchdog_is_fed_only_while_loops_make_progress(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    let_go = threading.Event()
    with atoll.IoContextThread("kv") as thread, LoopMonitor(QUICK) as monitor:
        monitor.watch(thread.io_context)
        with SystemdNotifier(liveness_threshold=0.2) as notifier:
            assert [systemd.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
            thread.io_context.post(let_go.wait, PATIENCE, name="KvService.Put")
            end = time.monotonic() + PATIENCE
            while (said := systemd.next()) == "WATCHDOG=1":
                assert time.monotonic() < end
            assert said.startswith("STATUS=loop kv has made no progress for ")
            assert "KvService.Put runs for " in said
            assert systemd.next().startswith("STATUS=loop kv"), "and nothing else"
            notifier.status("as before")
            let_go.set()
            while (said := systemd.next()).startswith("STATUS=loop kv"):
                assert time.monotonic() < end
            assert [said, systemd.next()] == ["STATUS=as before", "WATCHDOG=1"]


def test_a_watchdog_of_another_process_is_not_fed(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with SystemdNotifier() as notifier:
        notifier.ready()
        time.sleep(0.02)
        assert systemd.next() == "READY=1"
    assert systemd.next() == "STOPPING=1"


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with SystemdNotifier() as notifier:
        assert (notifier.is_supervised, notifier.ready("x"), notifier.status("x")) == (False, False, False)


@pytest.mark.parametrize("address", ["/no/such/socket", "relative"])
def test_what_can_not_be_told_is_logged_and_not_raised(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with caplog.at_level(logging.WARNING, logger="atoll.observe"), SystemdNotifier() as notifier:
        assert not notifier.ready()
    assert any("systemd" in record.getMessage() for record in caplog.records)
