"""The README's first service, pasted into an empty folder, works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools")
pytest.importorskip("mypy")

README = Path(__file__).parents[2] / "README.md"


def _section(title: str) -> str:
    text = README.read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _files(section: str) -> dict[str, str]:
    """The code blocks that a line such as "`service.py`:" announces."""
    announced = re.findall(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return dict(announced)


def _commands(section: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if words[0] in {"mypy", "pytest"}:
        words = ["python", "-m", *words]
    assert words[0] == "python", f"a command that this test does not know how to run: {command}"
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_the_readmes_first_service_works_when_pasted(tmp_path: Path) -> None:
    section = _section("The first service")
    files = _files(section)
    assert {"counter.proto", "service.py", "client.py", "test_counter.py"} == set(files)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    commands = _commands(section)
    # The first line installs what this environment has; the last one serves until it is stopped.
    assert commands[0].startswith("pip install")
    assert commands[-1] == "python service.py"
    for command in commands[1:-1]:
        ran = _run(command, tmp_path)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"


def test_the_readmes_loop_example_runs(tmp_path: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", _section("The loop alone"), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(code[0])
    ran = _run("python example.py", tmp_path)
    assert ran.stdout.startswith("queued from any thread\n6 "), ran.stderr
