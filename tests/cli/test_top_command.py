"""`atoll top` as it is called: once, and wrongly."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from atoll.cli.top._client import Client, Unavailable

if TYPE_CHECKING:
    from tests.cli.conftest import Canned, Stuck

    from atoll.observe import ObserveEndpoint

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="stacks of stalled threads are taken on Linux only")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"ATOLL_OBSERVE", "FORCE_COLOR"}}


def atoll_top(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll.cli", "top", *arguments]
    environment = ENVIRONMENT | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def test_once_prints_the_loops_and_where_they_are_stuck(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.block()
    done = atoll_top("--once", endpoint.address)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"process {os.getpid()} at {endpoint.address}, up ")
    stuck = next(line for line in lines if line.startswith("stuck [b]"))
    assert re.search(r" STUCK +.* Service.Slow\[red\] +[\d.]+ (ms|s) ", stuck)
    free = next(line for line in lines if line.startswith("free "))
    assert " idle " in free
    assert "loop stuck [b]: STUCK in Service.Slow[red] for " in done.stdout
    if sys.platform == "linux":
        assert re.search(r"^_block_the_loop +.*conftest.py:\d+$", done.stdout, flags=re.MULTILINE)


def test_once_prints_all_that_is_known_as_json(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.block()
    done = atoll_top("--once", "-o", "json", endpoint.address)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    names = [loop["name"] for loop in answer["loops"] if loop["running"]]
    assert names == ["stuck [b]"]


def test_the_address_may_come_from_the_environment(endpoint: ObserveEndpoint) -> None:
    assert atoll_top("--once", "-o", "json", ATOLL_OBSERVE=endpoint.address).returncode == 0


def test_a_process_without_loops_is_shown_too(canned: Canned) -> None:
    process = {"pid": 1, "uptime": 2.0, "command": ["a\x1b[2Jb"], "atoll": "0"}
    canned.json(json.dumps({"version": 1, "at": 0.0, "process": process, "loops": [], "stalls": []}))
    done = atoll_top("--once", canned.address)
    assert done.returncode == 0
    assert "it has no loops" in done.stdout
    assert "\x1b" not in done.stdout, "what a process tells does not reach the terminal as commands"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere/at/all.sock"])
def test_where_nothing_answers_one_line_says_what_to_do(address: str) -> None:
    done = atoll_top("--once", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"atoll top: nothing answers at {address} (")
    assert f"start the service with ATOLL_OBSERVE={address}" in done.stderr


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nonsense", "is not an address"),
        ("127.0.0.1:0", "is not an address"),
        ("127.0.0.1:http", "is not an address"),
        (":9464", "is not an address"),
        ("127.0.0.1:70000", "is not an address"),
        ("::1:9464", "needs brackets"),
        ("unix:", "has no path"),
    ],
)
def test_what_is_no_address_is_wrong_usage(address: str, why: str) -> None:
    done = atoll_top("--once", address)
    assert done.returncode == 2
    assert why in done.stderr


def test_the_live_view_needs_a_terminal_and_says_so() -> None:
    done = atoll_top("127.0.0.1:9464")
    assert done.returncode == 2
    assert "--once -o json" in done.stderr


def test_an_output_is_for_once() -> None:
    done = atoll_top("-o", "json", "127.0.0.1:9464")
    assert done.returncode == 2
    assert "-o is for --once" in done.stderr


def test_the_help_teaches() -> None:
    done = atoll_top("--help", COLUMNS="200")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    for word in ("ATOLL_OBSERVE=127.0.0.1:9464", "unix:/run/atoll.sock", "--once", "Keys:", "Exit code 0"):
        assert word in text


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_gets_one_line_with_the_remedy(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['atoll', 'top', '--once', 'unix:/s']; "
    command = [sys.executable, "-c", program + "from atoll.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f'atoll top: {missing} is missing; install it with: pip install "atoll[top]"\n'


def test_a_missing_textual_is_said_before_the_screen_is_taken() -> None:
    program = "import sys; sys.modules['textual'] = None; sys.argv = ['atoll', 'top', 'unix:/s']; "
    command = [sys.executable, "-c", program + "from atoll.cli import main; main()"]
    ours, theirs = pty.openpty()
    with open(ours, closefd=True), open(theirs, closefd=True):  # noqa: PTH123 - descriptors
        done = subprocess.run(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        'atoll top: textual is missing; install it with: pip install "atoll[top]"\n',
    )


# -- the client ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closes the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is no endpoint of Atoll's"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "is no endpoint of Atoll's"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "is no endpoint of Atoll's"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "is no endpoint of Atoll's"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"version": 2, "loops": []}', "speaks version 2"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"version": 1, "loops": 7}', "speaks version 1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", "is no endpoint of Atoll's"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nnot with that Host", "answers 403: not with that Host"),
    ],
)
def test_what_is_no_endpoint_is_said_to_be_none(canned: Canned, answer: bytes, why: str) -> None:
    canned.answer = answer
    with pytest.raises(Unavailable, match=re.escape(why)):
        Client(canned.address).top()


def test_a_process_that_says_nothing_is_given_up(canned: Canned) -> None:
    with pytest.raises(Unavailable, match="does not answer within"):
        Client(canned.address, timeout=0.05).top()


def test_a_question_under_way_can_be_cancelled(canned: Canned) -> None:
    client = Client(canned.address, timeout=60)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            client.top()
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert canned.asked.wait(60)
    client.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(Unavailable):
        client.top()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:9464/top", "127.0.0.1:9464"),
        ("[::1]:9464", "[::1]:9464"),
        ("unix:///run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:a.sock"),
    ],
)
def test_addresses_are_read_as_they_are_logged_and_pasted(text: str, shown: str) -> None:
    assert Client(text).address == shown
