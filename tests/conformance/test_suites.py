"""How the suites are fetched, and how their reports are read."""

import os
from pathlib import Path

import pytest
from conformance import __main__ as program
from conformance import connect, go
from conformance.outcome import SuiteError, UnavailableError

REPORT = """\
FAILED: Basic/TLS:false/unary/success:
\treceived an unexpected error:
\tcode:CODE_INTERNAL
FAILED: Basic/TLS:true/unary/success:
\ttimed out

Total cases: 4
2 passed, 2 failed
"""


def put_go(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Make a command `go` that is this shell script the only one."""
    (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(go, "BUILD", folder)


def test_each_failed_case_of_a_report_has_all_that_is_said_of_it() -> None:
    assert connect._failures(REPORT.splitlines()) == {
        "Basic/TLS:false/unary/success": "received an unexpected error:; code:CODE_INTERNAL",
        "Basic/TLS:true/unary/success": "timed out",
    }


def test_without_go_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_given, **_options: None)
    monkeypatch.setattr(go, "BUILD", tmp_path)
    with pytest.raises(UnavailableError, match="Go is missing; get it with"):
        go.program("grpcurl", go.GRPCURL, "./cmd/grpcurl")


def test_a_module_that_cannot_be_fetched_is_no_failure_of_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_go(tmp_path, monkeypatch, """echo '{"Error": "dial tcp: connection refused"}'; exit 1""")
    assert program.main(["grpcurl"]) == program.UNAVAILABLE
    assert "can't be fetched: dial tcp: connection refused" in capsys.readouterr().err


def test_a_module_with_another_checksum_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_go(tmp_path, monkeypatch, """echo '{"Dir": "/tmp", "Sum": "h1:another"}'""")
    with pytest.raises(SuiteError, match="has the checksum h1:another"):
        go.program("grpcurl", go.GRPCURL, "./cmd/grpcurl")


def test_a_go_that_is_too_old_is_told_by_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = f'{{"Dir": "{tmp_path}", "Sum": "{go.GRPC.checksum}"}}'
    script = f"""case $1 in mod) echo '{answer}';; *) echo 'go: go.mod requires go >= 1.25' >&2; exit 1;; esac"""
    put_go(tmp_path, monkeypatch, script)
    with pytest.raises(UnavailableError, match=r"go.mod requires go >= 1.25"):
        go.program("interop-client", go.GRPC, "./interop/client")


def test_a_program_that_does_not_compile_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = f'{{"Dir": "{tmp_path}", "Sum": "{go.GRPC.checksum}"}}'
    script = f"""case $1 in mod) echo '{answer}';; list) ;; *) echo 'undefined: x' >&2; exit 1;; esac"""
    put_go(tmp_path, monkeypatch, script)
    with pytest.raises(SuiteError, match="undefined: x"):
        go.program("interop-client", go.GRPC, "./interop/client")
    assert not (tmp_path / "bin").exists()


def test_a_program_that_is_built_needs_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_go(tmp_path, monkeypatch, "exit 1")
    built = tmp_path / "bin" / f"grpcurl-{go.GRPCURL.version}"
    built.parent.mkdir()
    built.write_text("")
    assert go.program("grpcurl", go.GRPCURL, "./cmd/grpcurl") == built
