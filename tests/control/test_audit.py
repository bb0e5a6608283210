"""The audit: one line per change, with who, what, on what and how it ended."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.watching import on_a_loop

from atoll.store import Store
from atoll.testing import FakeServicerContext
from atoll_control.api.v1 import admin_pb2, kv_pb2, token_pb2
from atoll_control.server import logs
from atoll_control.server import term as terms
from atoll_control.server.access import WRITE, rules_of
from atoll_control.server.audit import MAX_CHARACTERS, MAX_TOGETHER, MAX_VALUES, Audit, Line, target_of
from atoll_control.server.settings import ServerSettings
from atoll_control.server.tables import TABLES
from atoll_control.server.tokens import CALLER, Caller
from atoll_control.server.vitals import Vitals
from atoll_control.testing import answer, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RULES = {rule.name: rule for rule in rules_of().values()}
PEER = FakeServicerContext().peer()


class KvServiceServicer:
    """Does what a test says, in the place of the generated class, all methods of which it would have to have."""

    outcome: Any = None

    async def Put(self, _request: Any, context: Any) -> kv_pb2.PutResponse:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        if self.outcome is not None:
            await context.abort(self.outcome, "no")
        return kv_pb2.PutResponse(applied=True)

    async def Get(self, _request: Any, _context: Any) -> kv_pb2.GetResponse:
        return kv_pb2.GetResponse()

    Delete = Transact = Put


class AdminServiceServicer:
    async def Backup(self, _request: Any, _context: Any) -> AsyncIterator[admin_pb2.BackupChunk]:
        yield admin_pb2.BackupChunk(data=b"1")
        yield admin_pb2.BackupChunk(data=b"2")


def audited(servicer: Any) -> list[Any]:
    lines: list[Any] = []
    Audit(lambda more: lines.extend(line.fields for line in more)).install(servicer)
    return lines


def test_what_ends_in_one_turn_of_the_loop_is_written_together() -> None:
    keys = KvServiceServicer()
    written: list[Any] = []
    audit = Audit(lambda lines: written.append(list(lines)))
    audit.install(keys)

    async def put(times: int) -> None:
        await asyncio.gather(*(answer(keys.Put, PUT) for _ in range(times)))

    asyncio.run(put(3))
    assert [len(lines) for lines in written] == [3]
    del written[:]
    asyncio.run(put(MAX_TOGETHER + 2))
    assert [len(lines) for lines in written] == [MAX_TOGETHER, 2]


def test_a_line_has_the_time_of_its_change_and_not_of_its_writing() -> None:
    keys = KvServiceServicer()
    written: list[Any] = []
    audit = Audit(written.extend)
    audit.install(keys)

    async def put() -> bool:
        before = time.time_ns()
        await answer(keys.Put, PUT)
        done = time.time_ns()
        assert written == []
        return before <= audit._waiting[0]._lines[0].at <= done

    assert asyncio.run(put())
    assert len(written) == 1


@on_a_loop
async def test_what_a_term_leaves_is_written_when_its_loops_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(terms, "audit_sink", lambda: written.extend)
    store, settings = Store.in_memory(TABLES), ServerSettings()
    term = terms.Term(settings, "server-1", Vitals(settings))
    left = Line(AT, FIELDS)
    async with term.modules(store, "127.0.0.1:1"):
        term._audit._waiting[0]._lines.append(left)
    assert written == [left]
    await store.close()


def test_what_a_loop_did_not_come_to_write_is_written_at_the_end() -> None:
    keys = KvServiceServicer()
    written: list[Any] = []
    audit = Audit(written.extend)
    audit.install(keys)
    loop = asyncio.new_event_loop()
    put = loop.create_task(answer(keys.Put, PUT))
    put.add_done_callback(lambda _: loop.stop())
    while not put.done():
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    audit.close()
    audit.close()
    assert len(written) == 1


PUT = kv_pb2.PutRequest(namespace="jobs", key=b"1", value=b"a secret")
LINE = {"actor": PEER, "method": "KvService.Put", "target": {"namespace": "jobs", "key": "1"}}


def test_a_change_is_one_line_without_its_value_and_reading_is_none() -> None:
    keys = KvServiceServicer()
    lines = audited(keys)
    assert asyncio.run(answer(keys.Put, PUT)).applied
    asyncio.run(answer(keys.Get, kv_pb2.GetRequest(key=b"1")))
    assert lines == [{**LINE, "outcome": "OK"}]
    assert "secret" not in str(lines)


def test_a_change_that_was_refused_is_put_down_with_its_status() -> None:
    keys = KvServiceServicer()
    lines = audited(keys)
    keys.outcome = grpc.StatusCode.NOT_FOUND
    assert asyncio.run(refusal(keys.Put, PUT)).code is grpc.StatusCode.NOT_FOUND
    keys.outcome = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(answer(keys.Put, PUT))
    keys.outcome = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(answer(keys.Put, PUT))
    assert [line["outcome"] for line in lines] == ["NOT_FOUND", "UNKNOWN", "CANCELLED"]


def test_a_stream_is_put_down_at_its_end_also_when_nobody_reads_it_to_the_end() -> None:
    admin = AdminServiceServicer()
    lines = audited(admin)

    async def read(count: int) -> None:
        chunks = admin.Backup(admin_pb2.BackupRequest(), FakeServicerContext())
        for _ in range(count):
            await anext(chunks, None)
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(read(3))
    asyncio.run(read(1))
    assert [(line["method"], line["outcome"]) for line in lines] == [
        ("AdminService.Backup", "OK"),
        ("AdminService.Backup", "CANCELLED"),
    ]


def test_the_actor_is_the_token_that_was_shown() -> None:
    keys = KvServiceServicer()
    lines = audited(keys)

    async def put() -> None:
        CALLER.set(Caller("token:ci", WRITE, b""))
        await answer(keys.Put, PUT)

    asyncio.run(put())
    assert lines[0]["actor"] == "token:ci"


def test_the_keys_of_a_transaction_are_shown_up_to_a_bound() -> None:
    request = kv_pb2.TransactRequest()
    for number in range(MAX_VALUES + 2):
        request.operations.add().put.key = b"k%d" % number
    request.operations.add().delete.key = b"\xff"
    target = target_of(RULES["KvService.Transact"], request)
    assert target["operations.put.key"] == [*(f"k{number}" for number in range(MAX_VALUES)), "and 2 more"]
    assert target["operations.delete.key"] == ["\\xff"]


def test_what_is_long_is_cut_and_enums_have_their_names() -> None:
    long = target_of(RULES["KvService.Put"], kv_pb2.PutRequest(key=b"k" * 1024))
    assert long == {"key": "k" * MAX_CHARACTERS + "..."}
    token = target_of(RULES["TokenService.CreateToken"], token_pb2.CreateTokenRequest(name="ci", role=WRITE))
    assert token == {"name": "ci", "role": "ROLE_WRITE"}


AT = 1_795_870_647_412_909_876
FIELDS = {"actor": "token:ci", "method": "KvService.Put", "target": {"key": 'a"\n\x1b[31m \u2028'}, "outcome": "OK"}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_configured", (request.param, logging.StreamHandler(stream)))
    return stream


@pytest.mark.parametrize("written", [logs.LogFormat.JSON], indirect=True)
def test_a_line_for_machines_is_json_like_every_other(written: io.StringIO) -> None:
    logs.audit_sink()([Line(AT, FIELDS)])
    text = written.getvalue()
    entry = json.loads(text)
    assert {key: entry[key] for key in FIELDS} == FIELDS
    assert (entry["event"], entry["level"], entry["logger"]) == ("audit", "info", "atoll_control.audit")
    assert entry["timestamp"] == "2026-11-28T12:57:27.412909Z"
    assert text.count("\n") == 1


@pytest.mark.parametrize("written", [logs.LogFormat.CONSOLE], indirect=True)
def test_what_people_choose_can_not_look_like_another_line_or_field(written: io.StringIO) -> None:
    logs.audit_sink()([Line(AT, {**FIELDS, "actor": "certificate:x outcome=OK\nfake"})])
    text = written.getvalue()
    assert 'actor="certificate:x outcome=OK\\nfake" method=KvService.Put target={"key": "a\\"\\n\\u001b[31m' in text
    assert text.isascii()
    assert text.count("\n") == 1
