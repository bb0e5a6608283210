"""`ObserveEndpoint`: what the process does, told while nothing in it runs."""

from __future__ import annotations

import functools
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import atoll
from atoll.errors import BindError
from atoll.observe import (
    LagProbe,
    LoopMonitor,
    MonitorOptions,
    ObserveEndpoint,
    endpoint_from_environment,
    prometheus_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="stacks of stalled threads are taken on Linux only")


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until the condition holds, and returns its value."""
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.005)
    return value


def get(address: str, path: str) -> tuple[int, str]:
    """Asks as a raw socket does."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=60)
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with connection.makefile("rb") as file:
            head, _, body = file.read().decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def top(address: str) -> Any:
    status, body = get(address, "/top")
    assert status == 200
    return json.loads(body)


def top_of(address: str, name: str) -> Any:
    (found,) = (each for each in top(address)["loops"] if each["name"] == name)
    return found


def stalled(address: str, name: str) -> Any:
    """The loop, once its stall is known."""
    it = top_of(address, name)
    return it["stall"] and it["running"] and it


@pytest.fixture(params=["tcp", "unix"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObserveEndpoint]:
    address = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/observe.sock"
    with ObserveEndpoint(address) as endpoint:
        yield endpoint


def test_a_scrape_gets_the_metrics(endpoint: ObserveEndpoint, worked: list[atoll.IoContext]) -> None:
    assert worked
    status, body = get(endpoint.address, "/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(body)}
    assert names == {family.name for family in text_string_to_metric_families(prometheus_text())}
    assert 'loop="node_manager"' in body


def test_the_top_has_every_loop_with_its_numbers(endpoint: ObserveEndpoint, worked: list[atoll.IoContext]) -> None:
    data = top(endpoint.address)
    assert data["version"] == 1
    assert data["process"]["pid"] == os.getpid()
    assert data["process"]["uptime"] > 0
    assert abs(data["at"] - time.time()) < 60
    assert {"node_manager", "kv_manager"} <= {each["name"] for each in data["loops"]}
    it = top_of(endpoint.address, "node_manager")
    stats = worked[0].stats()
    assert (it["total"], it["active"], it["errors"]) == (stats.total, stats.active, stats.errors)
    assert it["queued"] == {"control": 0, "normal": 0, "bulk": 1}
    assert (it["delayed"], it["guards"], it["runs"], it["running"]) == (1, 0, False, None)
    assert it["thread"] is None
    assert it["oldest_queued"] > 0
    assert it["health"] is None, "no monitor watches it"
    assert it["lag"] is None, "it has no probe"
    assert it["stall"] is None
    assert it["modules"] == []
    assert it["time"]["running"] > 0
    handlers = {handler["name"]: handler for handler in it["handlers"]}
    assert handlers["NodeService.Register"]["total"] == 3
    assert handlers["NodeService.Register"]["execution"]["p50"] >= 0.0009
    assert handlers['fails "loudly"']["errors"] == 1
    slowest = [handler["execution"]["max"] for handler in it["handlers"]]
    assert slowest == sorted(slowest, reverse=True)


def test_every_field_is_documented(endpoint: ObserveEndpoint, stuck: list[atoll.IoContext]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "top.md").read_text()
    documented = set(re.findall(r"`(\w+)`", guide))
    with LoopMonitor(MonitorOptions(stall_threshold=0.02)) as monitor:
        monitor.watch(stuck[0])
        wait_for(functools.partial(stalled, endpoint.address, "first"), "a stall")
        told = top(endpoint.address)
    assert fields(told) <= documented
    assert {"stack_after", "largest_latency", "p99", "age", "cpu"} <= fields(told), "it had all parts"


def fields(value: Any) -> set[str]:
    """The names of all fields within a JSON value."""
    if isinstance(value, list):
        return {name for each in value for name in fields(each)}
    if isinstance(value, dict):
        return set(value) | {name for each in value.values() for name in fields(each)}
    return set()


def test_percentiles_are_those_of_the_statistics(endpoint: ObserveEndpoint, worked: list[atoll.IoContext]) -> None:
    told = {handler["name"]: handler for handler in top_of(endpoint.address, "node_manager")["handlers"]}
    for handler in worked[0].stats():
        for part in ("queue", "execution"):
            exact = getattr(handler, f"{part}_time")
            assert told[handler.name][part]["count"] == exact.count
            for quantile in ("p50", "p99", "max"):
                assert told[handler.name][part][quantile] == pytest.approx(getattr(exact, quantile), rel=1e-3)


def test_only_the_twenty_slowest_handlers_are_told(endpoint: ObserveEndpoint) -> None:
    io_context = atoll.IoContext("many names")
    for number in range(25):
        io_context.post(time.sleep, number / 10_000, name=f"handler {number}")
    io_context.run()
    it = top_of(endpoint.address, "many names")
    assert (len(it["handlers"]), it["handlers_left_out"]) == (20, 5)
    slowest = sorted(io_context.stats(), key=lambda handler: handler.execution_time.max, reverse=True)[:20]
    assert [handler["name"] for handler in it["handlers"]] == [handler.name for handler in slowest]
    assert it["total"] == 25
    io_context.close()
    assert "many names" not in {each["name"] for each in top(endpoint.address)["loops"]}


def test_stuck_loops_are_shown_with_what_they_run(endpoint: ObserveEndpoint, stuck: list[atoll.IoContext]) -> None:
    with LoopMonitor(MonitorOptions(interval=0.005, deadline=0.05, stall_threshold=0.03)) as monitor:
        for io_context in stuck:
            monitor.watch(io_context)
        status, text = wait_for(
            lambda: (it := get(endpoint.address, "/readyz"))[1].count(" runs for ") == 2 and it, "bad health"
        )
        assert status == 503
        loops = text.splitlines()[0].removeprefix("[-]loops: ").split(", and ")
        for line, name in zip(loops, ("first", "second"), strict=True):
            said = rf"loop {name} is unhealthy: a probe has waited \d+\.\d s for its turn; stuck runs for \d+\.\d s"
            assert re.fullmatch(said, line)
        for name in ("first", "second"):
            it = wait_for(functools.partial(stalled, endpoint.address, name), "a stall")
            assert it["running"]["handler"] == "stuck"
            assert it["running"]["age"] > 0.03
            assert it["oldest_queued"] > 0
            assert it["queued"]["normal"] == 1, "probes are no work"
            assert it["runs"]
            assert it["thread"]["id"] > 0
            assert (it["health"]["healthy"], it["health"]["counts"], it["health"]["stalls"]) == (False, True, 1)
            assert (it["stall"]["handler"], it["stall"]["over"]) == ("stuck", False)
            if sys.platform == "linux":
                assert "_block" in it["stall"]["stack"]
        stalls = top(endpoint.address)["stalls"]
        assert {(each["loop"], each["handler"]) for each in stalls} == {("first", "stuck"), ("second", "stuck")}
    wait_for(lambda: get(endpoint.address, "/readyz")[0] == 200, "nothing said by a monitor that has been stopped")


def test_a_loop_whose_health_does_not_count_is_no_reason_to_be_dead(
    endpoint: ObserveEndpoint, stuck: list[atoll.IoContext]
) -> None:
    with LoopMonitor(MonitorOptions(interval=0.005, deadline=0.02)) as monitor:
        for io_context in stuck:
            monitor.watch(io_context, counts_for_health=False)
        wait_for(lambda: not top_of(endpoint.address, "first")["health"]["healthy"], "bad health")
        assert get(endpoint.address, "/livez") == (200, "alive; 2 loops are watched\n")
        assert get(endpoint.address, "/readyz") == (200, "[+]loops ok\nreadyz check passed\n")


def test_loops_of_one_name_are_told_apart(endpoint: ObserveEndpoint) -> None:
    watched, other = atoll.IoContext("twin"), atoll.IoContext("twin")
    with LoopMonitor() as monitor:
        monitor.watch(watched)
        twins = [each for each in top(endpoint.address)["loops"] if each["name"] == "twin"]
        assert [each["health"] is None for each in twins] == [False, True]
    watched.close()
    other.close()


def test_the_lag_is_that_of_the_probe(endpoint: ObserveEndpoint) -> None:
    with atoll.IoContextThread("probed") as thread, LagProbe(thread.io_context, 0.005) as probe:
        wait_for(lambda: probe.latencies.count, "a probe's turn")
        assert top_of(endpoint.address, "probed")["lag"] > 0
    del thread


# What it prints while it runs are marks of a thread that needs the GIL for each.
EVERYTHING_STUCK = """
import re, sys, threading, time
import atoll
from atoll.observe import LoopMonitor, MonitorOptions, ObserveEndpoint

def holds_the_gil():
    re.match(r"(a+)+$", "a" * 60 + "b")

def mark():
    while True:
        print(".", flush=True)
        time.sleep(0.01)

endpoint = ObserveEndpoint(sys.argv[1])
endpoint.start()
monitor = LoopMonitor(MonitorOptions(interval=0.01, deadline=0.1, stall_threshold=0.05))
monitor.start()
threads = [atoll.IoContextThread(name) for name in ("blocked", "another", "greedy")]
for thread in threads:
    thread.start()
    monitor.watch(thread.io_context)
entered = threading.Barrier(3)
def block():
    entered.wait()
    time.sleep(3600)
threads[0].io_context.post(block, name="Blocked.first")
threads[1].io_context.post(block, name="Blocked.second")
entered.wait()
print(endpoint.address, flush=True)
threading.Thread(target=mark, daemon=True).start()
threads[2].io_context.post(holds_the_gil)
threading.Event().wait()
"""


@pytest.fixture
def everything_stuck(endpoint_address: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process all of whose loops are stuck while one C call holds the GIL, and where it can be observed."""
    command = [sys.executable, "-c", EVERYTHING_STUCK, endpoint_address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            wait_for(functools.partial(stalled, address, "greedy"), "a stall")
            yield address, process
        finally:
            process.kill()


@pytest.fixture
def endpoint_address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/stuck.sock"


@LINUX
def test_it_answers_another_process_while_all_loops_are_stuck_and_the_gil_is_held(
    everything_stuck: tuple[str, subprocess.Popen[bytes]],
) -> None:
    address, process = everything_stuck
    assert process.stdout is not None
    if HAS_GIL:
        os.set_blocking(process.stdout.fileno(), False)
        process.stdout.read()
    first = top_of(address, "greedy")["running"]
    status, metrics = get(address, "/metrics")
    assert status == 200
    assert 'atoll_handlers_running{loop="greedy",handler="holds_the_gil"} 1\n' in metrics
    wait_for(lambda: get(address, "/readyz")[0] == 503, "bad health")
    loops = {each["name"]: each for each in top(address)["loops"]}
    assert loops["greedy"]["running"]["handler"] == first["handler"] == "holds_the_gil"
    assert loops["greedy"]["running"]["age"] > first["age"] > 0.05
    assert "in holds_the_gil" in loops["greedy"]["stall"]["stack"]
    assert loops["blocked"]["running"]["handler"] == "Blocked.first"
    assert "in block" in loops["another"]["stall"]["stack"]
    if HAS_GIL:
        assert not process.stdout.read(), "no other thread had the GIL"


def test_what_the_program_published_last_is_told_with_the_metrics(endpoint: ObserveEndpoint) -> None:
    def jobs() -> list[float]:
        families = text_string_to_metric_families(get(endpoint.address, "/metrics")[1])
        return [sample.value for family in families if family.name == "jobs" for sample in family.samples]

    assert jobs() == []
    endpoint.publish("# TYPE jobs gauge\njobs 1\n")
    endpoint.publish("# TYPE jobs gauge\njobs 2")
    assert jobs() == [2]
    with pytest.raises(ValueError, match=r"longer than the 4194304 that /metrics tells of a program: export fewer"):
        endpoint.publish("x" * ((4 << 20) + 1))
    assert jobs() == [2]
    endpoint.stop()
    endpoint.publish("jobs 3")
    endpoint.start()
    assert jobs() == []


def test_a_client_that_looks_for_something_else_is_told_what_there_is(endpoint: ObserveEndpoint) -> None:
    status, text = get(endpoint.address, "/")
    assert status == 404
    assert all(path in text for path in ("/metrics", "/top", "/livez", "/readyz"))


def test_another_sites_page_gets_nothing() -> None:
    with ObserveEndpoint("localhost:0") as endpoint:
        port = int(endpoint.address.rpartition(":")[2])
        connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.request("GET", "/top", headers={"Host": "evil.example"})
        answer = connection.getresponse()
        assert answer.status == 403
        assert b"Host" in answer.read()
        connection.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0:0", "its own machine only"),
        ("[::]:0", "its own machine only"),
        ("example.org:9464", "its own machine only"),
        ("127.0.0.1", "it has no port"),
        ("unix:", "it has no path"),
        ("unix:/nowhere/at/all.sock", "No such file or directory"),
        ("unix:/" + "long" * 40, "cannot listen"),
    ],
)
def test_an_address_that_is_not_its_own_is_refused(address: str, reason: str) -> None:
    endpoint = ObserveEndpoint(address)
    with pytest.raises(BindError, match=reason):
        endpoint.start()
    assert not endpoint.is_running


def test_it_starts_and_stops_as_often_as_wanted(tmp_path: Path) -> None:
    path = tmp_path / "observe.sock"
    endpoint = ObserveEndpoint(f"unix:{path}")
    assert endpoint.address == f"unix:{path}"
    for _ in range(2):
        endpoint.start()
        endpoint.start()
        assert get(endpoint.address, "/livez")[0] == 200
        with pytest.raises(BindError, match="another server listens there"):
            ObserveEndpoint(f"unix:{path}").start()
        endpoint.stop()
        endpoint.stop()
        assert not path.exists()


def test_a_socket_left_by_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "observe.sock"
    program = (
        "import os, sys, signal, atoll.observe as o; o.ObserveEndpoint(sys.argv[1]).start(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, f"unix:{path}"], timeout=60, check=False)
    assert done.returncode == -9
    assert path.exists()
    with ObserveEndpoint(f"unix:{path}") as endpoint:
        assert get(endpoint.address, "/livez")[0] == 200


def test_one_that_nobody_stopped_ends_with_the_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "observe.sock"
    program = "import sys, atoll.observe as o; o.ObserveEndpoint(sys.argv[1]).start(); print('end')"
    command = [sys.executable, "-W", "error", "-c", program, f"unix:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert not path.exists()


FORK = """
import os, sys
import atoll.observe as o

endpoint = o.ObserveEndpoint(sys.argv[1])
endpoint.start()
address = endpoint.address
reader, writer = os.pipe()
if not (child := os.fork()):
    os.close(writer)
    assert not endpoint.is_running
    endpoint.stop()
    with o.ObserveEndpoint("127.0.0.1:0"):
        pass
    del endpoint
    os.write(1, b"child\\n")
    os.read(reader, 1)  # until the parent's end
    os._exit(0)
os.close(reader)
assert endpoint.is_running
endpoint.stop()
while True:
    try:
        o.ObserveEndpoint(address).start()
        break
    except o._endpoint.BindError:
        pass  # the child has not closed its copy yet
os.write(1, b"free again\\n")
os.close(writer)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_forked_child_neither_has_it_nor_keeps_its_address(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "observe.sock"
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{path}"
    command = [sys.executable, "-c", FORK, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"child", "free again"}
    assert not path.exists()


@pytest.fixture
def from_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ObserveEndpoint | None]]:
    found: list[ObserveEndpoint] = []

    def ask(value: str) -> ObserveEndpoint | None:
        monkeypatch.setenv("ATOLL_OBSERVE", value)
        endpoint = endpoint_from_environment()
        if endpoint is not None:
            found.append(endpoint)
        return endpoint

    yield ask
    for endpoint in found:
        endpoint.stop()


def test_the_environment_asks_for_one_for_the_process(
    from_environment: Callable[[str], ObserveEndpoint | None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="atoll.observe"):
        endpoint = from_environment("127.0.0.1:0")
    assert endpoint is not None
    assert [record.getMessage() for record in caplog.records] == [
        f"atoll top {endpoint.address} shows what this process does (ATOLL_OBSERVE)"
    ]
    assert get(endpoint.address, "/livez")[0] == 200
    assert from_environment("127.0.0.1:0") is endpoint
    endpoint.stop()
    assert from_environment("127.0.0.1:0") is not endpoint


@pytest.mark.parametrize("value", ["", "  "])
def test_an_environment_that_asks_for_nothing_gets_nothing(
    from_environment: Callable[[str], ObserveEndpoint | None], value: str
) -> None:
    assert from_environment(value) is None


def test_a_value_that_is_no_address_is_an_error_that_names_the_variable(
    from_environment: Callable[[str], ObserveEndpoint | None],
) -> None:
    with pytest.raises(BindError, match=r'ATOLL_OBSERVE=0.0.0.0:1: "0.0.0.0:1" is not an address .* unset it'):
        from_environment("0.0.0.0:1")


def test_an_address_in_use_does_not_keep_a_service_from_starting(
    from_environment: Callable[[str], ObserveEndpoint | None], caplog: pytest.LogCaptureFixture
) -> None:
    with ObserveEndpoint("127.0.0.1:0") as other:
        assert from_environment(other.address) is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "another server listens there" in record.getMessage()
    assert "ATOLL_OBSERVE" in record.getMessage()


def test_the_environment_may_ask_for_a_socket_per_process(
    from_environment: Callable[[str], ObserveEndpoint | None], tmp_path: Path
) -> None:
    endpoint = from_environment(f"unix:{tmp_path}/{{pid}}.sock")
    assert endpoint is not None
    assert endpoint.address == f"unix:{tmp_path}/{os.getpid()}.sock"
