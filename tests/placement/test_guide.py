"""What the guide shows is what happens."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import atoll
from atoll.cli._map import PolicyMap
from atoll.cli._picture import as_svg
from atoll.errors import NotOnLoopError, PlacementError

DOCS: Final = Path(__file__).parents[2] / "docs"
GUIDE: Final = (DOCS / "placement.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def block_with(language: str, text: str) -> str:
    (found,) = (block for block in blocks(language) if text in block)
    return found


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The guide's service, pasted into a file."""
    path = tmp_path / "service.py"
    path.write_text("\n\n".join(blocks("python")))
    return path


@pytest.fixture
def names(service: Path) -> dict[str, Any]:
    """What the guide's service defines."""
    defined: dict[str, Any] = {"__name__": "service"}
    exec(compile(service.read_text(), service, "exec"), defined)  # noqa: S102 - our own page
    return defined


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_service_runs(service: Path) -> None:
    ended = run(service.parent, "service.py")
    assert (ended.returncode, ended.stdout) == (0, block_with("text", "beats: 1")), ended.stderr


def test_the_map_is_the_one_that_is_shown(service: Path) -> None:
    (command,) = blocks("sh")
    ended = run(service.parent, "-m", "atoll.cli", *command.split()[1:])
    assert ended.stdout == block_with("text", "LOOP")


def test_the_picture_is_the_one_that_is_shown(names: dict[str, Any]) -> None:
    shown = (DOCS / "placement-map.svg").read_text(encoding="utf-8")
    assert shown == as_svg([PolicyMap.of("service:Placement", names["Placement"])]), "run atoll check --svg again"


def test_a_wrong_policy_is_answered_as_shown(names: dict[str, Any]) -> None:
    nodes, kv = names["NodeManager"], names["KvManager"]
    with pytest.raises(PlacementError) as raised:

        class Placement(atoll.IoContextPolicy[nodes | kv]):  # type: ignore[valid-type] # known when it runs
            kv_manager = atoll.dedicated(kv, max_queed={"bulk": 1_000})  # type: ignore[call-arg]

    assert f"service.{raised.value}\n" == block_with("text", "max_queed")


def test_a_module_that_is_touched_from_outside_answers_as_shown(names: dict[str, Any]) -> None:
    async def main() -> None:
        async with atoll.IoContextProvider[Any](names["Placement"]) as provider:
            await names["touch_from_outside"](provider)

    with pytest.raises(NotOnLoopError) as raised:
        asyncio.run(main())
    assert f"atoll.errors.NotOnLoopError: {raised.value}\n" == block_with("text", "NotOnLoopError")


def test_a_box_is_bound_as_shown(names: dict[str, Any]) -> None:
    with atoll.IoContextThread("sessions") as thread:
        sessions = thread.io_context.submit(names["Sessions"]).result(30)
        thread.io_context.submit(sessions.add, "a").result(30)
        with pytest.raises(NotOnLoopError, match=r"bound to loop 'sessions' at .*service\.py:\d+ was read on thread"):
            sessions.add("b")
