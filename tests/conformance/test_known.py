"""What is known to fail, and what a run makes of it."""

import pytest
from conformance import known
from conformance.known import Known
from conformance.outcome import Outcome
from conformance.report import Suite


def suite(*lines: str, quiet: bool = True) -> Suite:
    return Suite("connect", known.parse("\n".join(lines), "a file"), quiet=quiet)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("tls/ping_pong", "tls/ping_pong", "plain/ping_pong"),
        ("*/ping_pong", "plain/ping_pong", "a/tls/ping_pong"),
        ("**/ping_pong", "a/tls/ping_pong", "tls/ping_pong/more"),
        ("Errors/**", "Errors/TLS:true/unary", "Basic/Errors"),
        ("Errors/**/unary/*", "Errors/unary/internal", "Errors/TLS:true/unary"),
    ],
)
def test_a_star_stands_for_one_part_of_a_name_and_two_for_any_number(pattern: str, matching: str, other: str) -> None:
    line = Known(pattern, "a reason", skipped=False)
    assert line.matches(matching)
    assert not line.matches(other)


def test_comments_and_empty_lines_say_nothing() -> None:
    assert known.parse("# a comment\n\n", "a file") == []


def test_a_line_is_a_pattern_and_its_reason() -> None:
    lines = known.parse("**/no-request # never answered\nskip **/gzip # breaks the others\n", "a file")
    assert lines == [
        Known("**/no-request", "never answered", skipped=False),
        Known("**/gzip", "breaks the others", skipped=True),
    ]


@pytest.mark.parametrize("line", ["**/no-request", "**/no-request # ", "skip **/no-request"])
def test_a_line_without_a_reason_is_an_error_that_names_it(line: str) -> None:
    with pytest.raises(ValueError, match="a file:2: give the reason"):
        known.parse(f"# first\n{line}", "a file")


def test_all_files_of_known_failures_have_reasons() -> None:
    for path in known.FOLDER.glob("*.txt"):
        assert known.parse(path.read_text(), path.name)


def test_where_servicers_live_makes_no_difference_to_what_is_known() -> None:
    assert known.read("connect", "atoll-placed") == known.read("connect", "atoll")


def test_a_failure_that_is_not_known_makes_the_run_fail_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = suite()
    run.add(Outcome("tls/ping_pong", "no pong\nat all"))
    assert run.wrong == ["tls/ping_pong"]
    assert "FAILED\n    no pong\n    at all\n" in capsys.readouterr().out


def test_a_failure_that_is_known_does_not_and_its_reason_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = suite("*/ping_pong # there is no pong")
    run.add(Outcome("tls/ping_pong", "no pong"))
    run.close(whole=True)
    assert run.wrong == []
    assert "there is no pong" in capsys.readouterr().out
    assert run.summary() == "connect: 0 passed, 0 failed, 1 known to fail"


def test_a_known_failure_that_passes_makes_the_run_fail() -> None:
    run = suite("*/ping_pong # there is no pong")
    run.add(Outcome("tls/ping_pong"))
    assert run.wrong == ["tls/ping_pong"]


def test_a_known_failure_that_no_case_matches_makes_a_whole_run_fail() -> None:
    run = suite("*/ping_pong # there is no pong")
    run.add(Outcome("tls/empty_unary"))
    run.close(whole=False)
    assert run.wrong == []
    run.close(whole=True)
    assert run.wrong == ["*/ping_pong"]


def test_cases_that_pass_get_a_line_unless_there_are_hundreds(capsys: pytest.CaptureFixture[str]) -> None:
    suite(quiet=True).add(Outcome("unary"))
    assert capsys.readouterr().out == ""
    suite(quiet=False).add(Outcome("unary", seconds=0.5))
    assert "ok   0.50 s" in capsys.readouterr().out
