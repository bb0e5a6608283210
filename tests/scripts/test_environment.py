"""An environment that is up to date is used as it is, whatever else goes on in the tree."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment.py"


class WaitedError(Exception):
    """It would have waited for another make."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, in a tree of its own with one lock file and its environment, which has what the file says."""
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    # Its dataclass looks its module up.
    monkeypatch.setitem(sys.modules, "environment", script)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "BUILD", tmp_path / "build")

    def wait() -> None:
        raise WaitedError

    monkeypatch.setattr(script, "exclusively", wait)
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements" / "lock.txt"
    lock.write_text("")
    made = script.Environment("-lock")
    made.home.mkdir(parents=True)
    (made.home / "state.json").write_text(json.dumps({"base": made._base, "lock": script.digest(lock.read_text())}))
    return script


def test_what_is_up_to_date_waits_for_no_other_make(environment: Any) -> None:
    assert environment.prepare("lock").home == environment.ROOT / ".venv" / environment.Environment("-lock").home.name


def test_what_is_to_be_changed_waits_for_another_make(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "requirements" / "lock.txt").write_text("tool==1\n")
    with pytest.raises(WaitedError):
        environment.prepare("lock")
