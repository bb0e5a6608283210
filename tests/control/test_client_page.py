"""What the page on the Python client shows is what happens."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from atoll_control import client as public
from atoll_control.client import Client, ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.server_process
def test_the_examples_run_one_after_the_other(serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    address = serve().address
    with Client(address, timeout=30) as client:
        client.nodes.register("n", 1, labels={"zone": "a"})
    names: dict[str, Any] = {}
    printed = []
    for example in EXAMPLES:
        code = compile(
            example.replace("127.0.0.1:50051", address), "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        outcome = eval(code, names)  # noqa: S307 - our own page
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
        printed.append(capsys.readouterr().out)
    assert printed == [
        "b'blue' 2\nn\n",
        "b'color' b'blue'\n",
        "1\n",
        "5\n",
        "{b'color': b'blue'}\n",
        "b'color' b'green'\n",
    ]


def test_the_page_names_every_method_and_every_error() -> None:
    rows = dict(re.findall(r"^\| `client\.(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    with Client("127.0.0.1:1") as client:
        for group, methods in rows.items():
            there = [name for name, _ in inspect.getmembers(getattr(client, group), callable) if name[0] != "_"]
            assert sorted(re.findall(r"`(\w+)`", methods)) == there
    errors = {
        name
        for name, kind in vars(public).items()
        if isinstance(kind, type) and issubclass(kind, ClientError) and kind is not ClientError
    }
    assert set(re.findall(r"^\| `(\w+Error)`", PAGE, re.MULTILINE)) == errors
