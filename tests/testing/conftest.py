"""`session`: runs pytest, with our plugin, on tests as users write them."""

import textwrap
from pathlib import Path

import pytest

HEAD = """
import asyncio
import pathlib
import threading

import pytest

import atoll
import atoll.testing
"""
# Hypothesis would be imported anew in each session.
INI = """
[pytest]
addopts = -p no:cacheprovider -p no:hypothesispytest
filterwarnings = error
"""


class Session:
    """Runs pytest on a file of tests, in this process, with the plugins that are installed."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.configure("asyncio_default_fixture_loop_scope = function")

    def configure(self, line: str = "") -> None:
        self._pytester.makeini(INI + line)

    def run(self, code: str, *arguments: str) -> pytest.RunResult:
        self._pytester.makepyfile(test_it=HEAD + textwrap.dedent(code))
        return self.again(*arguments)

    def again(self, *arguments: str) -> pytest.RunResult:
        return self._pytester.runpytest_inprocess(*arguments)

    @property
    def folder(self) -> Path:
        """Where the tests run."""
        return self._pytester.path


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Session:
    for variable in ("ATOLL_TESTING_SEED", "ATOLL_TESTING_DELAY_US"):
        monkeypatch.delenv(variable, raising=False)
    return Session(pytester)


def text(result: pytest.RunResult) -> str:
    """What a session has printed."""
    return "\n".join(result.outlines)
