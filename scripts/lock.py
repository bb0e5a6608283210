"""Resolves the dependency groups of pyproject.toml into requirements/*.txt, which the make targets install.

Each file pins every package it needs, with its hashes, for every Python and platform that we support (markers tell them
apart) and names no package index, so that two machines install the same thing from wherever they get their packages.
The files agree with each other: all are parts of one resolution but `protoc` and `lock`, which have environments of
their own, and `free-threaded-313`, whose older releases take the others' place. uv does it, from the environment of the
set `lock`.

    python scripts/lock.py             resolve; a pin that still fits is kept
    python scripts/lock.py --upgrade   resolve, taking the newest releases
    python scripts/lock.py --check     say whether pyproject.toml changed since; needs no network
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
DIGEST_LINE = "# of pyproject.toml: "

# The files, and what of pyproject.toml goes into each.
PARTS = {
    "build": ["--group", "build"],
    "runtime": ["pyproject.toml", "--extra", "all"],
    "test": ["pyproject.toml", "--group", "test"],
    "test-grpc": ["--group", "test-grpc"],
    "lint": ["--group", "lint"],
    "docs": ["--group", "docs"],
    "bench": ["--group", "bench"],
}
ALONE = {name: ["--group", name] for name in ("free-threaded-313", "protoc", "lock")}


def inputs_digest() -> str:
    """Returns a digest of what the lock files were resolved from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tables = [project["project"][key] for key in ("requires-python", "dependencies", "optional-dependencies")]
    tables += [project["dependency-groups"], PARTS, ALONE]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def outdated() -> list[str]:
    """Returns the names of the lock files that are missing or were resolved from another pyproject.toml."""
    header = DIGEST_LINE + inputs_digest()
    paths = [LOCKS / f"{name}.txt" for name in (PARTS | ALONE)]
    return [path.name for path in paths if not path.exists() or header not in path.read_text().splitlines()[:3]]


def resolve(wanted: list[str], output: Path, *options: str) -> None:
    """Resolves `wanted` into the file `output`, keeping the pins that it already has."""
    command = ["uv", "pip", "compile", *wanted, "--universal", "--python-version", "3.11", "--quiet", "--no-header"]
    subprocess.run([*command, "--output-file", output, *options], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)


def write_locks(*, upgrade: bool) -> None:
    """Writes every lock file."""
    header = f"# Written by `make lock`, resolved from the groups and extras\n{DIGEST_LINE}{inputs_digest()}\n"
    options = ["--generate-hashes", *(["--upgrade"] if upgrade else [])]
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder) / "everything.txt"
        groups = [word for words in PARTS.values() for word in words if word != "pyproject.toml"]
        if not upgrade:
            pins = [path.read_text() for name in PARTS if (path := LOCKS / f"{name}.txt").exists()]
            everything.write_text("".join(pins))
        resolve(["pyproject.toml", *groups], everything)
        jobs = {name: (words, ["--constraints", str(everything)]) for name, words in PARTS.items()}
        jobs |= {name: (words, []) for name, words in ALONE.items()}
        for name, (words, constraints) in jobs.items():
            path = LOCKS / f"{name}.txt"
            resolve(words, path, *options, *constraints)
            lines = path.read_text().splitlines(keepends=True)
            path.write_text(header + "".join(line for line in lines if "everything.txt" not in line))
            print(f"==> {path.relative_to(ROOT)}: {sum('==' in line for line in lines)} packages")


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        write_locks(upgrade=arguments.upgrade)
        return 0
    stale = outdated()
    if stale:
        print(f"pyproject.toml has changed since {', '.join(stale)} was written; run: make lock")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
