"""A few failed tests are run once more and named; what is no test's failure is never forgiven."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

RUN_PYTEST = Path(__file__).parents[2] / "scripts" / "run_pytest.py"
# Fails when it is run for the first time.
FLAKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("name", {names})
def test_fails_at_first(name):
    mark = Path(f"{{name}}.mark")
    seen = mark.exists()
    mark.touch()
    assert seen
"""
FLAKY_FIXTURE = """
from pathlib import Path
import pytest

@pytest.fixture
def fails_at_first():
    mark = Path("mark")
    seen = mark.exists()
    mark.touch()
    assert seen
"""


class Suite:
    """A folder of tests, with a pytest configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        markers = "markers =\n alone\n once\n smoke"
        (folder / "pytest.ini").write_text(f"[pytest]\naddopts = -p no:cacheprovider\n{markers}\n")

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)

    def run(self, *arguments: str, processes: int = 1) -> int:
        """Runs the script as `scripts/test` does; returns its exit code."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(("ATOLL_", "PYTEST_"))}
        # No plugin has anything to do here, and their import takes a second.
        others |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "ATOLL_TEST_PROCESSES": str(processes)}
        command = [sys.executable, str(RUN_PYTEST), *arguments]
        ran = subprocess.run(
            command, cwd=self.folder, env=others, capture_output=True, text=True, check=False, timeout=100
        )
        self.output = ran.stdout + ran.stderr
        return ran.returncode

    @property
    def summary(self) -> str:
        return (self.folder / "build" / "test-summary").read_text()

    def report(self) -> str:
        return f"{self.summary}\n{self.output}"


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


def test_a_suite_that_passes_is_run_once_and_counted(suite: Suite) -> None:
    suite.write(test_good="def test_good(): pass\n")
    assert suite.run() == 0, suite.report()
    assert "1 passed, 0 skipped in" in suite.summary
    assert "FAILED" not in suite.summary
    assert not list(suite.folder.glob("build/*again*"))


def test_what_fails_and_then_passes_is_forgiven_and_named(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=["a", "b b"]), test_good="def test_good(): pass\n")
    assert suite.run() == 0, suite.report()
    assert "1 passed, 0 skipped, 2 FAILED in" in suite.summary
    named = "test_flaky.py::test_fails_at_first[a], test_flaky.py::test_fails_at_first[b b]"
    assert f"2 FAILED FIRST AND PASSED WHEN RUN AGAIN: {named}\n" in suite.summary


def test_only_what_failed_is_run_again(suite: Suite) -> None:
    good = 'def test_good():\n    open("runs", "a").write("one\\n")\n'
    suite.write(test_flaky=FLAKY.format(names=["a"]), test_good=good)
    assert suite.run() == 0, suite.report()
    assert (suite.folder / "runs").read_text() == "one\n"


def test_what_fails_twice_fails_the_run_though_others_passed_then(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=["a"]), test_bad="def test_bad(): assert False\n")
    assert suite.run() == 1, suite.report()
    assert "1 FAILED FIRST AND PASSED WHEN RUN AGAIN: test_flaky.py::test_fails_at_first[a]\n" in suite.summary
    assert "1 FAILED TWICE: test_bad.py::test_bad\n" in suite.summary


def test_more_than_a_few_failures_are_not_run_again(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=list("abcdef")))
    assert suite.run() == 1, suite.report()
    assert "0 passed, 0 skipped, 6 FAILED in" in suite.summary
    assert not list(suite.folder.glob("build/*again*"))


def test_an_error_around_a_test_is_run_again_like_a_failure_in_it(suite: Suite) -> None:
    suite.write(test_flaky=f"{FLAKY_FIXTURE}\ndef test_good(fails_at_first): pass\n")
    assert suite.run() == 0, suite.report()
    assert "1 FAILED FIRST AND PASSED WHEN RUN AGAIN: test_flaky.py::test_good\n" in suite.summary


def test_a_module_that_can_not_be_imported_is_never_forgiven(suite: Suite) -> None:
    flaky_import = 'from pathlib import Path\nmark = Path("mark")\nif not mark.exists():\n    mark.touch()\n    1 / 0\n'
    suite.write(test_broken=f"{flaky_import}def test_good(): pass\n", test_flaky=FLAKY.format(names=["a"]))
    assert suite.run("--continue-on-collection-errors") == 1, suite.report()
    assert not list(suite.folder.glob("build/*again*"))


def test_after_exitfirst_nothing_is_forgiven_as_tests_were_left_out(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=["a", "b"]))
    assert suite.run("--exitfirst") != 0, suite.report()
    assert not list(suite.folder.glob("build/*again*"))


def test_the_arguments_of_the_first_run_hold_for_the_second(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=["a", "b"]), test_bad="def test_bad(): assert False\n")
    assert suite.run("-k", "at_first and not bad", "test_flaky.py", "test_bad.py") == 0, suite.report()
    assert "2 FAILED FIRST" in suite.summary


@pytest.mark.parametrize("second", [False, True], ids=["the first time", "when run again"])
def test_a_signal_is_named_with_the_test_that_it_hit(suite: Suite, second: bool) -> None:  # noqa: FBT001
    crash = "    import os, signal\n    os.kill(os.getpid(), signal.SIGABRT)\n"
    if second:
        crash = FLAKY.format(names=["a"]).replace("    assert seen\n", f"    assert seen\n{crash}")
        name = "test_fails_at_first[a]"
    else:
        crash, name = f"def test_crash():\n{crash}", "test_crash"
    suite.write(test_a_good="def test_good(): pass\n", test_crash=crash)
    code = suite.run()
    if second:
        assert code == 1, suite.report()
        assert f"1 FAILED TWICE: test_crash.py::{name}\n" in suite.summary
        assert f"when they were run again, pytest DIED BY SIGABRT in test_crash.py::{name}\n" in suite.summary
    else:
        assert code == 128 + 6, suite.report()
        assert f"pytest DIED BY SIGABRT in test_crash.py::{name}\n" in suite.summary


def test_a_crash_between_two_tests_is_named_with_the_last_one(suite: Suite) -> None:
    end = "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGSEGV)\ndef test_good(): pass\n"
    suite.write(test_end=end)
    assert suite.run() == 128 + 11, suite.report()
    assert "pytest DIED BY SIGSEGV after test_end.py::test_good\n" in suite.summary


def test_a_test_that_ends_the_process_as_if_all_were_well_fails_the_run(suite: Suite) -> None:
    suite.write(test_exit="import os\ndef test_exit(): os._exit(0)\n")
    assert suite.run() == 1, suite.report()
    assert "pytest ENDED TOO EARLY, WITH EXIT CODE 0, in test_exit.py::test_exit\n" in suite.summary


def test_what_pytest_raises_at_its_end_is_not_forgiven_with_a_flaky_test(suite: Suite) -> None:
    suite.write(test_flaky=FLAKY.format(names=["a"]), conftest="def pytest_unconfigure(): 1 / 0\n")
    assert suite.run() == 1, suite.report()
    assert "ENDED TOO EARLY, WITH EXIT CODE 1, after test_flaky.py::test_fails_at_first[a]" in suite.summary


def test_arguments_that_pytest_does_not_know_fail_the_run(suite: Suite) -> None:
    suite.write(test_good="def test_good(): pass\n")
    assert suite.run("--no-such-option") == 4, suite.report()


def test_a_choice_of_no_test_fails_the_run(suite: Suite) -> None:
    suite.write(test_good="def test_good(): pass\n")
    assert suite.run("-k", "nothing_of_that_name") == 5, suite.report()


# ---------------------------------------------------------------------------------------------- processes side by side

# Says where it ran, and waits until both processes run tests. There must be three such files at least: a process claims
# the next one before it begins the last test of one.
SHARED = """
import os, pathlib, time

def test_{name}():
    with open("runs", "a") as runs:
        runs.write(f"{name} {{os.getpid()}}\\n")
    pathlib.Path(f"process-{{os.getpid()}}").touch()
    end = time.monotonic() + 60
    while len(list(pathlib.Path().glob("process-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
"""


def test_two_processes_share_a_suite_and_run_each_file_once(suite: Suite) -> None:
    names = list("abcdef")
    suite.write(**{f"test_{name}": SHARED.format(name=name) for name in names})
    assert suite.run(processes=2) == 0, suite.report()
    runs = [line.split() for line in (suite.folder / "runs").read_text().splitlines()]
    assert sorted(name for name, _ in runs) == names
    assert len({process for _, process in runs}) == 2
    assert "6 passed, 0 skipped in" in suite.summary


def test_arguments_are_for_one_process(suite: Suite) -> None:
    suite.write(test_a=SHARED.format(name="a").replace("60", "0"), test_b=SHARED.format(name="b").replace("60", "0"))
    assert suite.run("-k", "a or b", processes=2) == 0, suite.report()
    assert len(list(suite.folder.glob("process-*"))) == 1


def test_what_is_marked_alone_runs_after_all_others(suite: Suite) -> None:
    alone = SHARED.format(name="aa").replace("def test", "import pytest\n@pytest.mark.alone\ndef test")
    suite.write(test_aa=alone, **{f"test_{name}": SHARED.format(name=name) for name in "bcd"})
    assert suite.run(processes=2) == 0, suite.report()
    runs = [line.split()[0] for line in (suite.folder / "runs").read_text().splitlines()]
    assert sorted(runs[:3]) == ["b", "c", "d"]
    assert runs[3:] == ["aa"]
    assert "4 passed, 0 skipped in" in suite.summary


@pytest.mark.parametrize("mark", ["", "@pytest.mark.alone"], ids=["side by side", "alone"])
def test_what_fails_in_any_of_the_processes_is_run_again(suite: Suite, mark: str) -> None:
    flaky = FLAKY.format(names=["a"]).replace("@pytest", f"{mark}\n@pytest")
    suite.write(test_flaky=flaky, test_good="def test_good(): pass\n")
    assert suite.run(processes=2) == 0, suite.report()
    assert "1 passed, 0 skipped, 1 FAILED in" in suite.summary
    assert "1 FAILED FIRST AND PASSED WHEN RUN AGAIN: test_flaky.py::test_fails_at_first[a]\n" in suite.summary


def test_a_process_that_dies_fails_the_run_and_shows_what_it_printed(suite: Suite) -> None:
    crash = SHARED.format(name="crash") + "    print('last words', flush=True)\n    os.abort()\n"
    suite.write(test_a=SHARED.format(name="a"), test_b=SHARED.format(name="b"), test_crash=crash)
    assert suite.run(processes=2) == 128 + 6, suite.report()
    assert "pytest DIED BY SIGABRT in test_crash.py::test_crash\n" in suite.summary
    assert "test session starts" in suite.output


def test_a_suite_of_one_file_leaves_the_other_process_nothing_to_do(suite: Suite) -> None:
    suite.write(test_good="def test_good(): pass\n")
    assert suite.run(processes=2) == 0, suite.report()
    assert "1 passed, 0 skipped in" in suite.summary


def test_a_suite_without_tests_fails_the_run_however_many_look_for_them(suite: Suite) -> None:
    assert suite.run(processes=2) == 5, suite.report()


# ----------------------------------------------------------------------------------- what one interpreter is enough for

ONCE = """
import pytest

pytestmark = pytest.mark.once

def test_large(): pass

@pytest.mark.smoke
def test_small(): pass

@pytest.mark.alone
def test_alone(): pass
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_what_one_interpreter_is_enough_for_is_left_out_where_asked_and_counted(suite: Suite, processes: int) -> None:
    suite.write(test_once=ONCE, test_a=SHARED.format(name="a").replace("60", "0"))
    assert suite.run("--leave-out-once", processes=processes) == 0, suite.report()
    assert "2 passed, 0 skipped, 2 left to the newest CPython in" in suite.summary
    assert suite.run(processes=processes) == 0, suite.report()
    assert "4 passed, 0 skipped in" in suite.summary


def test_who_names_tests_gets_what_he_names(suite: Suite) -> None:
    suite.write(test_once=ONCE)
    assert suite.run("--leave-out-once", "test_once.py") == 0, suite.report()
    assert "3 passed, 0 skipped in" in suite.summary


def test_what_fails_of_what_is_not_left_out_is_run_again(suite: Suite) -> None:
    suite.write(test_once=ONCE, test_flaky=FLAKY.format(names=["a"]))
    assert suite.run("--leave-out-once", processes=2) == 0, suite.report()
    assert "1 passed, 0 skipped, 1 FAILED, 2 left to the newest CPython in" in suite.summary
    assert "1 FAILED FIRST AND PASSED WHEN RUN AGAIN: test_flaky.py::test_fails_at_first[a]\n" in suite.summary
