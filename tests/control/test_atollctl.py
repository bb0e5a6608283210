"""The command `atollctl`: how it starts, stops, logs and complains."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.control.commands import atollctl
from tests.control.malformed import methods

from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.api.v1 import node_pb2, node_pb2_grpc

pytestmark = pytest.mark.once


@pytest.mark.smoke
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_cleanly(serve: Callable[..., Any], signal_number: signal.Signals) -> None:
    server = serve()
    assert server.stop(signal_number) == 0
    assert server.lines[-1]["event"] == "server_stopped"
    assert "Traceback" not in server.said()


@pytest.mark.server_process
def test_the_server_stops_while_a_module_is_stuck(serve: Callable[..., Any]) -> None:
    server = serve("--demo-controls")
    with grpc.insecure_channel(server.address) as channel:
        request = fault_pb2.SetSlowRequest(module="NodeManager", kind=fault_pb2.SLOW_KIND_SLEEP)
        request.block.FromMilliseconds(1000)
        fault_pb2_grpc.FaultServiceStub(channel).SetSlow(request, timeout=10)
        stuck = node_pb2_grpc.NodeServiceStub(channel).ListNodes.future(node_pb2.ListNodesRequest(), timeout=10)
        assert server.stop() == 0
        stuck.result()


@pytest.mark.server_process
def test_the_log_has_one_line_per_event_and_says_which_service_lives_on_which_loop(serve: Callable[..., Any]) -> None:
    server = serve()
    services = {"NodeService": "node_manager", "HealthService": "health", "KvService": "kv_manager"}
    assert services.items() <= server.wait_for("server_started")["services"].items()
    with grpc.insecure_channel(server.address) as channel:
        nodes = node_pb2_grpc.NodeServiceStub(channel)
        host = node_pb2.Host(name="box", cpus=3)
        nodes.Register(node_pb2.RegisterRequest(node_id="n", incarnation=1, host=host), timeout=10)
        nodes.Register(node_pb2.RegisterRequest(node_id="n", incarnation=2, host=host), timeout=10)
        nodes.Unregister(node_pb2.UnregisterRequest(node_id="n", incarnation=2, reason="bye"), timeout=10)
    server.stop()
    lines = server.lines
    audit = [line["method"] for line in lines if line["event"] == "audit"]
    assert audit == ["NodeService.Register", "NodeService.Register", "NodeService.Unregister"]
    own = [line for line in lines if line["logger"].startswith("atoll_control") and line["event"] != "audit"]
    assert [line["event"] for line in own] == [
        "store_in_memory",
        "server_started",
        "node_registered",
        "node_registered",
        "node_left",
        "stopping",
        "server_stopped",
    ]
    assert (own[2]["node_id"], own[2]["host"], own[2]["cpus"]) == ("n", "box", 3)
    assert (own[3]["replaced_incarnation"], own[3]["was"]) == (1, "ALIVE")
    assert own[4]["reason"] == "bye"
    assert all({"timestamp", "level", "logger"} <= line.keys() for line in lines)


@pytest.mark.server_process
def test_the_controls_of_the_demo_are_offered_only_when_asked_for(serve: Callable[..., Any]) -> None:
    server = serve()
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        fault_pb2_grpc.FaultServiceStub(channel).GetStats(fault_pb2.GetStatsRequest(), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_server_stops_when_its_standard_input_closes_if_told_so(serve: Callable[..., Any]) -> None:
    server = serve("--exit-with-stdin")
    server.process.stdin.close()
    assert server.wait() == 0


def test_all_modules_can_be_put_on_one_loop(serve: Callable[..., Any]) -> None:
    services = serve("--one-loop").wait_for("server_started")["services"]
    assert {"NodeService", "HealthService", "KvService"} <= services.keys()
    assert set(services.values()) == {"shared"}


def test_a_port_in_use_gets_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "atoll_control.cli", "serve", "--listen", f"127.0.0.1:{port}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"atollctl: cannot listen on 127.0.0.1:{port}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("listen", ["50051", "localhost", "127.0.0.1:99999", "::1:50051", ":50051", "a b:1"])
def test_a_listen_address_that_is_none_gets_one_line_and_exit_code_2(listen: str) -> None:
    result = atollctl("serve", "--listen", listen)
    assert result.returncode == 2
    assert result.stderr == (
        f'atollctl: --listen: must be HOST:PORT, for example 127.0.0.1:50051 or "[::1]:50051"; got {listen!r}\n'
    )


def test_a_deadline_shorter_than_four_heartbeats_is_wrong_usage() -> None:
    result = atollctl("serve", "--heartbeat-interval", "4")
    assert result.returncode == 2
    assert result.stderr.startswith("atollctl: --dead-after: must be at least 16 s with a heartbeat every 4 s")
    assert result.stderr.count("\n") == 1


def test_help_tells_what_there_is_and_hides_what_is_for_the_demo_only() -> None:
    result = atollctl("serve", "--help")
    assert result.returncode == 0
    for text in ("--listen", "--heartbeat-interval", "--dead-after", "--network-threads", "--log-format", "Ctrl-C"):
        assert text in result.stdout
    assert "--demo-controls" not in result.stdout
    for service in {method.containing_service.name for method in methods()}:
        assert service in result.stdout


def test_a_command_that_asks_a_server_imports_none() -> None:
    program = (
        "import sys; sys.argv[1:] = ['kv', '--help']; from atoll_control.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({name.partition('.')[2] for name in sys.modules if name.startswith('atoll_control.')}))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    imported = shown.stdout.splitlines()[-1]
    assert "'cli.kv'" in imported
    assert "'server" not in imported
    assert "'agent.app'" not in imported


def test_a_missing_extra_gets_one_line_with_the_remedy() -> None:
    program = "import sys; sys.modules['structlog'] = None; from atoll_control.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == (
        'atollctl: structlog is missing; install the control plane with: pip install "atoll[control]"\n'
    )
