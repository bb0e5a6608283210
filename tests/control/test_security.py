"""Who may reach a real server, and as whom: TLS, certificates and tokens, with grpcio's clients."""

from __future__ import annotations

import inspect
import itertools
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
import typer
from google.protobuf import message_factory
from tests.control.commands import atollctl
from tests.control.malformed import valid
from typer.testing import CliRunner

from atoll_control.api.v1 import (
    health_pb2,
    health_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    rules_pb2,
    task_pb2,
    task_pb2_grpc,
    token_pb2,
    token_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)
from atoll_control.cli.calling import USAGE
from atoll_control.cli.commands import app
from atoll_control.server.access import FILES
from atoll_control.server.security import SecuritySettings, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

pytestmark = [pytest.mark.once, pytest.mark.server_process]

TIMEOUT = 20.0
READ, WRITE, ADMIN, NODE = (getattr(rules_pb2, f"ROLE_{name}") for name in ("READ", "WRITE", "ADMIN", "NODE"))
DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
# What shows which token, by its role.
CALLERS = {"reader": READ, "writer": WRITE, "operator": ADMIN, "node-a": NODE, "any-node": NODE}


class Guarded:
    """A server that asks for tokens, over TLS, and what its callers need."""

    def __init__(self, server: Any, folder: Path, data_dir: Path) -> None:
        self.server = server
        self.address = server.address.replace("127.0.0.1", "localhost")
        self.authority = folder / "authority.pem"
        self.admin_token_file = data_dir / "admin-token"
        credentials = grpc.ssl_channel_credentials(self.authority.read_bytes())
        self.channel = grpc.secure_channel(self.address, credentials)
        self.tokens = token_pb2_grpc.TokenServiceStub(self.channel)
        self.secrets = {"admin": self.admin_token_file.read_text().strip()}

    def shown(self, name: str | None) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that shows a token."""
        return () if name is None else (("authorization", f"Bearer {self.secrets.get(name, name)}"),)

    def make(self, name: str, role: rules_pb2.Role.ValueType, **fields: Any) -> str:
        request = token_pb2.CreateTokenRequest(name=name, role=role, **fields)
        reply = self.tokens.CreateToken(request, timeout=TIMEOUT, metadata=self.shown("admin"))
        self.secrets[name] = reply.secret
        secret: str = reply.secret
        return secret

    def ask(self, path: str, message: Message, name: str | None) -> tuple[grpc.StatusCode, str]:
        """How a call ends with this token."""
        method = METHODS[path]
        kind = self.channel.stream_stream if method.client_streaming else self.channel.unary_stream
        call: Any = kind(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        answers = call(
            iter([message]) if method.client_streaming else message, timeout=TIMEOUT, metadata=self.shown(name)
        )
        try:
            next(answers, None)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        answers.cancel()
        return grpc.StatusCode.OK, ""

    def refused(self, call: Any, request: Any, name: str | None) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=TIMEOUT, metadata=self.shown(name))
        error: Any = caught.value
        return error.code().name, error.details()

    def atollctl(self, *arguments: str, by: str | None = "admin") -> subprocess.CompletedProcess[str]:
        environment = {
            "ATOLL_SERVER": self.address,
            "ATOLL_TLS_CA": str(self.authority),
            **({} if by is None else {"ATOLL_TOKEN": self.secrets.get(by, by)}),
        }
        return atollctl(*arguments, environment=environment)


@pytest.fixture(scope="module")
def guarded(
    serve: Callable[..., Any], certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    data_dir = tmp_path_factory.mktemp("guarded") / "data"
    arguments = ("--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "server.key"))
    server = serve("--tokens", "--data-dir", str(data_dir), "--demo-controls", *arguments)
    it = Guarded(server, certificates, data_dir)
    for name, role in CALLERS.items():
        it.make(name, role, **({"node_id": "a"} if name == "node-a" else {"any_node": role == NODE}))
    yield it
    it.channel.close()


def access_of(method: MethodDescriptor) -> rules_pb2.Access:
    access: rules_pb2.Access = method.GetOptions().Extensions[rules_pb2.access]
    return access


def of_node(method: MethodDescriptor, node_id: str) -> Message:
    """A request about a node."""
    message = valid(method.input_type)
    about: Any = message
    if access_of(method).own_node == "events.node_id":
        about.events.add(job_id="j", task_id="t", node_id=node_id)
    elif access_of(method).own_node:
        about.node_id = node_id
    return message


@pytest.mark.parametrize("path", METHODS)
def test_each_method_is_for_those_whom_its_proto_names(guarded: Guarded, path: str) -> None:
    method = METHODS[path]
    access = access_of(method)
    outcomes: dict[str | None, set[grpc.StatusCode]] = {}
    for name in (None, "not a token", *CALLERS):
        code, details = guarded.ask(path, of_node(method, "a"), name)
        outcomes[name] = {code} & DENIED
        if code is grpc.StatusCode.PERMISSION_DENIED:
            assert f"needs the role {rules_pb2.Role.Name(access.role).removeprefix('ROLE_').lower()}" in details
    assert outcomes[None] == outcomes["not a token"] == {grpc.StatusCode.UNAUTHENTICATED}
    for name, role in CALLERS.items():
        is_allowed = access.nodes if role == NODE else role >= access.role
        assert outcomes[name] == (set() if is_allowed else {grpc.StatusCode.PERMISSION_DENIED}), name


@pytest.mark.parametrize("path", [path for path, method in METHODS.items() if access_of(method).own_node])
def test_a_nodes_token_speaks_for_its_node_alone(guarded: Guarded, path: str) -> None:
    code, details = guarded.ask(path, of_node(METHODS[path], "b"), "node-a")
    assert (code, "speaks for the node 'a' only, not for 'b'" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
    assert guarded.ask(path, of_node(METHODS[path], "b"), "any-node")[0] not in DENIED


def test_a_method_that_no_proto_declares_is_unknown_and_only_to_those_with_a_token(guarded: Guarded) -> None:
    call: Any = guarded.channel.unary_unary("/atoll.v1.KvService/Rename")
    assert guarded.refused(call, b"", None)[0] == "UNAUTHENTICATED"
    assert guarded.refused(call, b"", "reader")[0] == "UNIMPLEMENTED"


def test_the_answer_to_a_call_without_a_token_says_how_to_give_one(guarded: Guarded) -> None:
    kv = kv_pb2_grpc.KvServiceStub(guarded.channel)
    code, details = guarded.refused(kv.Get, kv_pb2.GetRequest(key=b"k"), None)
    assert (code, "authorization: Bearer SECRET" in details) == ("UNAUTHENTICATED", True)
    assert "atollctl tokens create" in details
    code, details = guarded.refused(kv.Get, kv_pb2.GetRequest(key=b"k"), "wrong")
    assert (code, "not known, has expired or was revoked" in details) == ("UNAUTHENTICATED", True)


@pytest.mark.smoke
def test_a_node_lives_with_its_own_token(guarded: Guarded) -> None:
    nodes, health = node_pb2_grpc.NodeServiceStub(guarded.channel), health_pb2_grpc.HealthServiceStub(guarded.channel)
    shown = guarded.shown("node-a")
    nodes.Register(node_pb2.RegisterRequest(node_id="a", incarnation=7), timeout=TIMEOUT, metadata=shown)
    health.Heartbeat(health_pb2.HeartbeatRequest(node_id="a", incarnation=7), timeout=TIMEOUT, metadata=shown)
    condition = node_pb2.Condition(name="DiskFull", status=node_pb2.CONDITION_STATUS_FALSE)
    request = node_pb2.SetConditionsRequest(node_id="a", conditions=[condition])
    assert nodes.SetConditions(request, timeout=TIMEOUT, metadata=shown).node.conditions[0].name == "DiskFull"
    event = task_pb2.TaskEvent(job_id="j", task_id="own", node_id="a")
    tasks = task_pb2_grpc.TaskServiceStub(guarded.channel)
    reply = tasks.AddTaskEvents(task_pb2.AddTaskEventsRequest(events=[event]), timeout=TIMEOUT, metadata=shown)
    assert reply.accepted == 1
    goodbye = node_pb2.UnregisterRequest(node_id="a", incarnation=7)
    assert nodes.Unregister(goodbye, timeout=TIMEOUT, metadata=shown).node.state == node_pb2.NODE_STATE_LEFT


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_watch_ends_within_seconds_when_its_token_does(guarded: Guarded, end: str) -> None:
    if end == "expired":
        guarded.make(end, READ, ttl={"seconds": 2})
    else:
        guarded.make(end, READ)
    opening = watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=watch_pb2.KvSource(prefix=True)))
    has_ended = threading.Event()
    stub = watch_pb2_grpc.WatchServiceStub(guarded.channel)
    answers = stub.Watch(once_and_open(opening, has_ended), timeout=60, metadata=guarded.shown(end))
    answers.add_callback(has_ended.set)
    assert next(answers).HasField("opened")
    if end == "revoked":
        request = token_pb2.RevokeTokenRequest(name=end)
        guarded.tokens.RevokeToken(request, timeout=TIMEOUT, metadata=guarded.shown("admin"))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        for _ in answers:
            pass
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert time.monotonic() - began < 15


def once_and_open(request: watch_pb2.WatchRequest, has_ended: threading.Event) -> Iterator[watch_pb2.WatchRequest]:
    """One request of a call that stays open, since its client may send more, until the server ends it."""
    yield request
    has_ended.wait()


def test_changes_are_in_the_audit_with_who_and_what_and_no_values(guarded: Guarded) -> None:
    kv = kv_pb2_grpc.KvServiceStub(guarded.channel)
    kv.Put(kv_pb2.PutRequest(key=b"audited", value=b"hush"), timeout=TIMEOUT, metadata=guarded.shown("writer"))
    kv.Get(kv_pb2.GetRequest(key=b"audited"), timeout=TIMEOUT, metadata=guarded.shown("writer"))
    guarded.refused(kv.Delete, kv_pb2.DeleteRequest(key=b"audited"), "reader")
    guarded.refused(kv.Put, kv_pb2.PutRequest(key=b"x", lease_id=99), "writer")
    wanted = [
        {"actor": "token:writer", "method": "KvService.Put", "target": {"key": "audited"}, "outcome": "OK"},
        {"actor": "token:reader", "method": "KvService.Delete", "target": {}, "outcome": "PERMISSION_DENIED"},
        {"actor": "token:writer", "method": "KvService.Put", "target": {"key": "x"}, "outcome": "NOT_FOUND"},
    ]
    entries = itertools.dropwhile(lambda entry: "audited" not in str(entry), guarded.server.each("audit"))
    assert [{key: entry[key] for key in wanted[0]} for entry in itertools.islice(entries, len(wanted))] == wanted
    assert "hush" not in guarded.server.said()


def test_no_secret_is_in_the_log(guarded: Guarded) -> None:
    guarded.make("logged", READ)
    entry = next(it for it in guarded.server.each("audit") if it["target"].get("name") == "logged")
    assert entry["target"] == {"name": "logged", "role": "ROLE_READ"}
    log = guarded.server.said()
    assert not [name for name, secret in guarded.secrets.items() if secret in log]


def test_tokens_are_made_listed_and_revoked_from_the_command_line(guarded: Guarded, tmp_path: Path) -> None:
    made = guarded.atollctl("tokens", "create", "from-cli", "--role", "write")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert "from-cli" in made.stderr
    assert secret not in made.stderr
    path = tmp_path / "token"
    path.write_text(made.stdout)
    assert guarded.atollctl("kv", "put", "by", "cli", "--token-file", str(path), by=None).returncode == 0
    denied = guarded.atollctl("health", "freeze", by=secret)
    assert (denied.returncode, "needs the role admin" in denied.stderr) == (6, True)
    listed = json.loads(guarded.atollctl("tokens", "list", "-o", "json").stdout)
    assert next(token for token in listed if token["name"] == "from-cli")["role"] == "ROLE_WRITE"
    assert guarded.atollctl("tokens", "revoke", "from-cli").returncode == 0
    assert guarded.atollctl("kv", "get", "by", by=secret).returncode == 6
    node = json.loads(guarded.atollctl("tokens", "create", "n", "--role", "node", "--node", "n", "-o", "json").stdout)
    assert (node["token"]["node_id"], node["secret"].startswith("atoll_")) == ("n", True)


def test_a_client_without_tls_or_with_another_authority_is_told_so(guarded: Guarded, certificates: Path) -> None:
    command = ["status", "--timeout", "5", "--server", guarded.address]
    # grpc waits for the server's first frame, which never comes.
    plain = atollctl("status", "--timeout", "1", "--server", guarded.address)
    assert (plain.returncode, "--tls-ca" in plain.stderr) == (5, True)
    stranger = atollctl(*command, "--tls-ca", str(certificates / "stranger.pem"))
    assert stranger.returncode == 5
    missing = atollctl(*command, "--tls-ca", "/nowhere.pem")
    assert (missing.returncode, "--tls-ca: /nowhere.pem can't be read" in missing.stderr) == (2, True)
    folder = atollctl(*command, "--tls-ca", str(certificates))
    assert (folder.returncode, f"--tls-ca: {certificates} can't be read: Is a dir" in folder.stderr) == (2, True)
    half = atollctl(*command, "--tls-cert", str(certificates / "client.pem"))
    assert (half.returncode, "give both" in half.stderr) == (2, True)
    name = [*command, "--tls-ca", str(certificates / "authority.pem"), "--tls-server-name", "other.example"]
    assert atollctl(*name).returncode == 5


@pytest.fixture(scope="module")
def mutual(serve: Callable[..., Any], certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mutual")
    secret = folder / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    arguments = [f"--tls-{name}={certificates / file}" for name, file in TLS.items()]
    return serve("--tokens", "--admin-token-file", str(secret), *arguments), secret


TLS = {"cert": "server.pem", "key": "server.key", "client-ca": "authority.pem"}


def test_with_a_client_authority_each_client_must_show_a_certificate(mutual: Any, certificates: Path) -> None:
    server, secret = mutual
    command = ["kv", "put", "k", "v", "--timeout", "5"]
    command += ["--server", server.address.replace("127.0.0.1", "localhost"), "--token-file", str(secret)]
    command += ["--tls-ca", str(certificates / "authority.pem")]
    assert atollctl(*command).returncode == 5
    for name, code in (("strange-client", 5), ("expired-client", 5), ("client", 0)):
        files = [f"--tls-cert={certificates / name}.pem", f"--tls-key={certificates / name}.key"]
        assert atollctl(*command, *files).returncode == code, name
    entry = server.wait_for("audit")
    assert (entry["actor"], entry["method"]) == ("admin-token-file", "KvService.Put")


def test_without_tokens_the_actor_is_the_certificate(serve: Callable[..., Any], certificates: Path) -> None:
    server = serve(*(f"--tls-{name}={certificates / file}" for name, file in TLS.items()))
    pem = [(certificates / file).read_bytes() for file in ("authority.pem", "client.key", "client.pem")]
    with grpc.secure_channel(
        server.address.replace("127.0.0.1", "localhost"), grpc.ssl_channel_credentials(*pem)
    ) as channel:
        kv_pb2_grpc.KvServiceStub(channel).Put(kv_pb2.PutRequest(key=b"k"), timeout=TIMEOUT)
    assert server.wait_for("audit")["actor"] == "certificate:node-7.example"


def commands(app: typer.Typer, *path: str) -> Iterator[tuple[str, ...]]:
    for command in app.registered_commands:
        assert command.callback is not None
        if "server" in inspect.signature(command.callback).parameters:
            yield (*path, command.name or command.callback.__name__)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, *path, str(group.name))


def test_every_command_that_reaches_a_server_can_do_so_over_tls_and_with_a_token() -> None:
    reaching = list(commands(app))
    assert {("status",), ("backup",), ("kv", "put"), ("tokens", "list"), ("tasks", "list")} <= set(reaching)
    for path in reaching:
        result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
        for option in ("--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name", "--token-file"):
            assert option in result.output, path


def serve_refused(arguments: list[str], code: int) -> tuple[int, str]:
    arguments = ["serve", "--listen", "127.0.0.1:0", *arguments]
    if code == USAGE:
        result = atollctl(*arguments)
    else:
        # It was begun.
        command = [sys.executable, "-m", "atoll_control.cli", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr.count("\n") == 1
    return result.returncode, result.stderr.removeprefix("atollctl: ")


def test_settings_that_can_not_work_are_refused_with_the_remedy(tmp_path: Path, certificates: Path) -> None:
    short = tmp_path / "short"
    short.write_text("secret")
    cert, key = f"--tls-cert={certificates / 'server.pem'}", f"--tls-key={certificates / 'client.key'}"
    for arguments, code, message in (
        ([cert], 2, "--tls-key: is required with tls_cert"),
        ([key], 2, "--tls-cert: is required with tls_key"),
        (["--tls-client-ca=x"], 2, "--tls-cert: is required with tls_client_ca"),
        ([f"--admin-token-file={short}"], 2, "--tokens: is required with admin_token_file"),
        (["--tokens"], 2, "--admin-token-file: is required with tokens and without a data directory"),
        (
            ["--tokens", f"--admin-token-file={short}"],
            1,
            f"admin_token_file: {short} must have one line of at least 32",
        ),
        (["--tokens", "--admin-token-file=/nowhere"], 1, "admin_token_file: /nowhere can't be read"),
        ([cert, key], 1, "tls_cert, tls_key, tls_client_ca: "),
        ([cert, "--tls-key=/nowhere"], 1, "a file of the TLS settings can't be read"),
        (["--listen", "0.0.0.0:0"], 2, "--listen: 0.0.0.0 may be reached from other machines, and whoever reaches it"),
        (
            ["--listen", "0.0.0.0:0", "--tokens", "--data-dir", str(tmp_path)],
            2,
            "--listen: 0.0.0.0 may be reached from other machines, and whoever can read what travels has the tokens",
        ),
    ):
        assert serve_refused(arguments, code) == (code, StartsWith(message))


class StartsWith(str):
    """Equals what starts with it."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(str(self))


@pytest.mark.parametrize(
    ("settings", "event"),
    [
        ({}, "anybody_may_change_everything"),
        ({"tls_cert": "c", "tls_key": "k"}, "anybody_may_change_everything"),
        ({"tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"}, None),
        ({"tls_cert": "c", "tls_key": "k", "tokens": True}, None),
        ({"tokens": True}, "tokens_without_tls"),
    ],
)
def test_what_is_open_beyond_loopback_is_said_loudly(settings: dict[str, Any], event: str | None) -> None:
    with structlog.testing.capture_logs() as lines:
        warn(SecuritySettings(**settings), "0.0.0.0:50051")
        warn(SecuritySettings(**settings), "[::1]:50051")
        warn(SecuritySettings(**settings), "localhost:50051")
    assert [(line["event"], line["log_level"]) for line in lines] == ([] if event is None else [(event, "warning")])
