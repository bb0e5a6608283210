"""What a machine lacks gets one line that names it and how to get it."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "env", "dirname", "sed", "cut", "sort", "head", "ls", "cat", "mkdir")


def _with(arguments: list[str], path: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "HOME": "/nonexistent", "CARGO_HOME": "/nonexistent", **variables}
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "with"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder with what every system has, and no compiler, Rust or Python."""
    for tool in TOOLS:
        for folder in ("/usr/bin", "/bin"):
            if (Path(folder) / tool).exists():
                (tmp_path / tool).symlink_to(Path(folder) / tool)
                break
    return tmp_path


def _fake(folder: Path, name: str, answer: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
    (folder / name).chmod(0o755)


def test_a_machine_without_rust_is_told_how_to_get_it_in_one_line(bare_path: Path) -> None:
    ran = _with(["rust", "--", "true"], bare_path)
    assert ran.returncode == 69
    assert ran.stderr.count("\n") == 1
    assert "Rust" in ran.stderr
    assert "rustup" in ran.stderr


def test_a_rust_that_is_too_old_is_named_with_the_version_that_is_needed(bare_path: Path) -> None:
    _fake(bare_path, "cargo", "cargo 1.60.0")
    _fake(bare_path, "rustc", "rustc 1.60.0 (old)")
    ran = _with(["rust", "--", "true"], bare_path)
    assert ran.returncode == 69
    assert "Rust 1.60.0 is too old" in ran.stderr
    assert "rustup update" in ran.stderr


def test_a_machine_without_a_c_compiler_is_told_how_to_get_one(bare_path: Path) -> None:
    _fake(bare_path, "cargo", "cargo 9.0.0")
    _fake(bare_path, "rustc", "rustc 9.0.0 (new)")
    ran = _with(["rust", "--", "true"], bare_path)
    assert ran.returncode == 69
    assert "C compiler" in ran.stderr


@pytest.mark.skipif(not Path("/bin/false").exists(), reason="there is no /bin/false to name as an interpreter")
def test_a_python_that_does_not_start_is_named(bare_path: Path) -> None:
    ran = _with(["protoc"], f"{bare_path}{os.pathsep}/bin", PYTHON="/bin/false")
    assert ran.returncode == 69
    assert "PYTHON=/bin/false does not start" in ran.stderr
