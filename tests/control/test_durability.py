"""A server with a data directory: what it has acknowledged survives whatever ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import atoll.store
from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc, node_pb2, node_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.server_process]

# By hand: ATOLL_TEST_KILLS=100.
KILLS = int(os.environ.get("ATOLL_TEST_KILLS", "8"))
WRITERS = 8


class Writer(threading.Thread):
    """Writes rising numbers under keys of its own and remembers what was acknowledged."""

    def __init__(self, address: str, name: str, first: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[bytes, int] = {}
        self._address = address
        self._prefix = name
        self._number = first

    def run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            stub = kv_pb2_grpc.KvServiceStub(channel)
            while True:
                self._number += 1
                key = f"{self._prefix}/{self._number % 50}".encode()
                request = kv_pb2.PutRequest(key=key, value=b"%d" % self._number, overwrite=True)
                try:
                    stub.Put(request, timeout=20)
                except grpc.RpcError:
                    return
                self.acknowledged[key] = self._number


def test_no_acknowledged_write_is_lost_when_the_server_is_killed_again_and_again(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    randomness = random.Random(5)  # noqa: S311 - moments to kill at
    acknowledged: dict[bytes, int] = {}
    for kill in range(KILLS):
        server = serve("--data-dir", str(tmp_path))
        with grpc.insecure_channel(server.address) as channel:
            stub = kv_pb2_grpc.KvServiceStub(channel)
            for key, number in acknowledged.items():
                stored = int(stub.Get(kv_pb2.GetRequest(key=key), timeout=20).value)
                assert stored >= number, f"{key!r} was acknowledged with {number}, and holds {stored}"
        writers = [Writer(server.address, f"w{number}", kill * 1_000_000) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        time.sleep(randomness.uniform(0.05, 0.4))
        server.kill()
        for writer in writers:
            writer.join(30)
            acknowledged.update(writer.acknowledged)
        assert atoll.store.check(tmp_path).problems == []
    assert len(acknowledged) > WRITERS


@pytest.mark.smoke
def test_nodes_and_keys_are_there_after_a_restart_and_the_epoch_has_risen(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    first = serve("--data-dir", str(tmp_path))
    with grpc.insecure_channel(first.address) as channel:
        registered = node_pb2_grpc.NodeServiceStub(channel).Register(
            node_pb2.RegisterRequest(node_id="n", incarnation=1, labels={"a": "b"}), timeout=20
        )
        owner = kv_pb2.NodeOwner(node_id="n", incarnation=1)
        kv_pb2_grpc.KvServiceStub(channel).Put(kv_pb2.PutRequest(key=b"k", value=b"v", node=owner), timeout=20)
    assert first.stop() == 0
    second = serve("--data-dir", str(tmp_path))
    with grpc.insecure_channel(second.address) as channel:
        nodes = node_pb2_grpc.NodeServiceStub(channel)
        (node,) = nodes.ListNodes(node_pb2.ListNodesRequest(), timeout=20).nodes
        assert (node.state, dict(node.labels)) == (node_pb2.NODE_STATE_ALIVE, {"a": "b"})
        kv = kv_pb2_grpc.KvServiceStub(channel)
        assert kv.Get(kv_pb2.GetRequest(key=b"k"), timeout=20).node_id == "n"
        again = nodes.Register(node_pb2.RegisterRequest(node_id="n", incarnation=2), timeout=20)
        assert again.epoch == registered.epoch + 1
        with pytest.raises(grpc.RpcError) as gone:
            kv.Get(kv_pb2.GetRequest(key=b"k"), timeout=20)
        assert gone.value.code() == grpc.StatusCode.NOT_FOUND, "what an incarnation owns goes with it"


def test_a_second_server_on_a_data_directory_is_refused_by_name(serve: Callable[..., Any], tmp_path: Path) -> None:
    first = serve("--data-dir", str(tmp_path))
    command = [
        sys.executable,
        "-m",
        "atoll_control.cli",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        str(tmp_path),
    ]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert str(first.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_damaged_database_is_refused_and_a_backup_restores_it(serve: Callable[..., Any], tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup.db"
    server = serve("--data-dir", str(data))
    with grpc.insecure_channel(server.address) as channel:
        kv_pb2_grpc.KvServiceStub(channel).Put(kv_pb2.PutRequest(key=b"k", value=b"v" * 5000), timeout=20)
        chunks = admin_pb2_grpc.AdminServiceStub(channel).Backup(admin_pb2.BackupRequest(), timeout=60)
        first = next(chunks)
        backup.write_bytes(b"".join(chunk.data for chunk in chunks))
    assert backup.stat().st_size == first.total_bytes
    server.stop()
    path = data / "atoll.db"
    path.write_bytes(b"\xff" * path.stat().st_size)
    command = [sys.executable, "-m", "atoll_control.cli"]
    refused = subprocess.run(
        [*command, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "restore" in refused.stderr
    restore = [*command, "restore", str(backup), "--data-dir", str(data), "--force"]
    subprocess.run(restore, check=True, timeout=60, capture_output=True)
    again = serve("--data-dir", str(data))
    with grpc.insecure_channel(again.address) as channel:
        got = kv_pb2_grpc.KvServiceStub(channel).Get(kv_pb2.GetRequest(key=b"k"), timeout=20)
        assert got.value == b"v" * 5000
        told = admin_pb2_grpc.AdminServiceStub(channel).GetServer(admin_pb2.GetServerRequest(), timeout=20)
        assert told.generation != first.generation
    assert again.stop(signal.SIGINT) == 0
