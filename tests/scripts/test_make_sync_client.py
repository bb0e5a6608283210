"""The client without asyncio has what the one with it has, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_sync_client.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a client that has one file made of another, and what is written by hand."""
    spec = importlib.util.spec_from_file_location("make_sync_client", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CLIENT", tmp_path)
    monkeypatch.setattr(module, "made", lambda source: f"made of {source.name}\n")
    for folder, text in (("_aio", "kv\n"), ("_sync", "made of kv.py\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kv.py").write_text(text)
        (tmp_path / folder / "_channel.py").write_text("by hand\n")
    (tmp_path / "_sync" / "_watching.py").write_text("by hand\n")
    return module


def run(script: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_sync_client.py", *arguments])
    code: int = script.main()
    return code


def test_what_is_up_to_date_is_left_as_it_is(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(script, monkeypatch, "--check") == 0


def test_a_file_that_has_changed_is_told_and_made_anew(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = script.CLIENT / "_sync" / "kv.py"
    target.write_text("made of an older kv.py\n")
    assert run(script, monkeypatch, "--check") == 1
    assert capsys.readouterr().err == "kv.py: out of date, run scripts/make_sync_client.py\n"
    assert run(script, monkeypatch) == 0
    assert target.read_text() == "made of kv.py\n"


def test_a_file_whose_source_is_gone_is_told_and_removed(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = script.CLIENT / "_sync" / "kv.py"
    (script.CLIENT / "_aio" / "kv.py").unlink()
    assert run(script, monkeypatch, "--check") == 1
    assert capsys.readouterr().err == "kv.py: made of a file that is gone, run scripts/make_sync_client.py\n"
    assert target.exists()
    assert run(script, monkeypatch) == 0
    assert sorted(path.name for path in (script.CLIENT / "_sync").iterdir()) == ["_channel.py", "_watching.py"]
