"""What the guide shows is what happens."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import atoll
from atoll import chaos
from atoll.errors import ChaosConfigurationError

GUIDE = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def block_with(language: str, text: str) -> str:
    (found,) = (block for block in blocks(language) if text in block)
    return found


def test_the_variables_have_values_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_TESTING_SEED", "1")
    for block in blocks("sh"):
        name, value = re.fullmatch(r'export (\w+)="(.*)".*\n', block).groups()  # type: ignore[union-attr]
        monkeypatch.setenv(name, value)
    injector = chaos.environment_injector()
    assert injector is not None
    assert len(injector.rules) == 3
    chaos.site("test.documentation")
    assert chaos.faults().seed == 1
    monkeypatch.delenv("ATOLL_TESTING_SITES")
    chaos.site("test.documentation")


def test_the_preview_is_the_one_that_is_shown() -> None:
    (made,) = re.findall(r"DelayInjector\.parse\(\"(.*?)\", seed=(\d+)\)", GUIDE)
    (asked,) = re.findall(r"injector\.preview\(\"(.*?)\", \"(.*?)\", (\d+)\)  # (\[.*?\])", GUIDE)
    injector = chaos.DelayInjector.parse(made[0], seed=int(made[1]))
    assert injector.preview(asked[0], asked[1], int(asked[2])) == ast.literal_eval(asked[3])


def test_delays_are_set_from_code_as_the_guide_sets_them() -> None:
    io_context = atoll.IoContext("node_io_context")
    exec(block_with("python", "inject_delays"), {"chaos": chaos, "io_context": io_context})  # noqa: S102 - our own page
    io_context.post(int, name="Heartbeat")
    assert io_context.stats().delayed == 1
    io_context.close()


def test_a_mistake_is_shown_as_the_guide_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_TESTING_DELAY_US", "Heartbeat=1000:2000,ObjectPull=50ms:100000")
    with pytest.raises(ChaosConfigurationError) as raised:
        chaos.environment_injector()
    assert str(raised.value) + "\n" == block_with("text", "50ms")


def test_the_lines_of_active_delays_are_those_of_the_guide(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ATOLL_TESTING_DELAY_US", "Heartbeat=1000:2000,*=0:100")
    monkeypatch.setenv("ATOLL_TESTING_SEED", "7")
    chaos.environment_injector()
    chaos.announce("node_io_context", "NodeService.Heartbeat", 0.001, 0.002)
    said = [record.getMessage() for record in caplog.records]
    shown = block_with("text", "Delaying handlers").splitlines()
    assert [re.sub(r"no\. \d+", "no. 1", line) for line in said] == shown


def test_the_sites_of_the_guide_misbehave_and_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(block_with("python", "class Store"), namespace)  # noqa: S102 - our own page
    exec(block_with("python", "chaos.sites("), namespace)  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    assert printed.startswith("Fault sites, seed 7: ")
    assert re.search(r"^  store\.write\.torn +activated, never reached$", printed, re.MULTILINE)
