"""`atoll.store.Election` and `EtcdOptions` where there is no etcd; `tests/control/test_failover.py` has one."""

from __future__ import annotations

import asyncio
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import pytest

from atoll._core import default_etcd_options
from atoll.store import Election, ElectionState, EtcdOptions, Store

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 30.0
# Nobody listens there.
ENDPOINT = "http://127.0.0.1:1"


def test_the_options_that_are_left_out_go_together_and_are_what_the_native_side_says() -> None:
    options = EtcdOptions(endpoints=[ENDPOINT])
    options.checked()
    told = {field.name: field.default for field in fields(EtcdOptions) if field.default not in {MISSING, None}}
    assert told == default_etcd_options()
    # As docs/several-servers.md has them.
    assert (options.lease, options.validity) == (3.0, 2.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"endpoints": []}, "name at least one"),
        ({"endpoints": ["https://127.0.0.1:1"]}, "certificate authority"),
        ({"prefix": "atoll"}, "must begin and end with a slash"),
        ({"user": "atoll"}, "a password is missing"),
        ({"password": "secret"}, "a user is missing"),
        ({"cert": "client.pem"}, "the private key of the client is missing"),
        ({"key": "client.key"}, "the certificate of the client is missing"),
        ({"cert": "client.pem", "key": "client.key"}, "a client's certificate is given without ca"),
        ({"server_name": "etcd"}, "server_name is given without ca"),
        ({"lease": 2.5}, "the lease must be whole seconds"),
        ({"validity": 3.0}, "the validity must be shorter than the lease"),
        ({"keepalive": -1.0}, "keepalive must be a number of seconds that is not negative; got -1"),
        ({"load_timeout": float("nan")}, "load_timeout must be a number of seconds"),
        ({"connect_timeout": 0.0}, "at least 0.01 s"),
        ({"max_operations": 4}, "max_operations must be at least 8"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_what_to_change(wrong: dict[str, Any], message: str) -> None:
    options = EtcdOptions(**{"endpoints": [ENDPOINT], **wrong})
    with pytest.raises(ValueError, match=message):
        Election.start(options, name="a", address="127.0.0.1:2")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = EtcdOptions(endpoints=["https://127.0.0.1:1"], ca=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError, match=r"ca\.pem"):
        options.checked()


def test_the_password_is_not_printed() -> None:
    options = EtcdOptions(endpoints=[ENDPOINT], user="atoll", password="a-secret")  # noqa: S106 - a test's
    assert "'atoll'" in repr(options)
    assert "a-secret" not in repr(options)


def test_who_can_not_reach_etcd_stands_by_says_why_and_opens_no_store() -> None:
    async def stand() -> tuple[ElectionState, ElectionState]:
        election = Election.start(EtcdOptions(endpoints=[ENDPOINT]), name="a", address="127.0.0.1:2")
        state = election.state
        while state.problem is None:
            state = await asyncio.wait_for(election.changed(state), TIMEOUT)
        with pytest.raises(RuntimeError, match="wait until the election's state has the role"):
            Store.in_etcd(election, ["kv"])
        assert election.remaining == 0
        waiting = asyncio.create_task(election.changed(state))
        await asyncio.sleep(0)
        await election.resign()
        await election.resign()
        return state, await asyncio.wait_for(waiting, TIMEOUT)

    standby, resigned = asyncio.run(stand())
    assert (standby.role, standby.leader, standby.epoch) == ("standby", None, None)
    assert ENDPOINT in str(standby.problem)
    assert (resigned.role, resigned.problem) == ("resigned", None)
