"""Regenerates the Python code of the protos beside this file, with the tools of the group `protoc`: `make protos`.

Generated code runs with its generator's protobuf and grpcio or newer, never older; the group pins the generator, and
with it the floor of both.

Packages of protos map to packages of Python mechanically: `atoll.v1` becomes `atoll_control.api.v1`. protoc can't do
that (its `atoll.v1` would be a module of the framework), so imports are rewritten after the fact.

`--check` writes nothing and fails if the committed code is out of date, or if a change breaks clients (surface.py).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import surface  # type: ignore[import-not-found]  # beside this program
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTOS = Path(__file__).resolve().parent
API = PROTOS.parent
PACKAGES = ("atoll.v1", "atoll.demo.v1")
REMEDY = """\
Leave what is there as it is, and add beside it: a field that is not used any more stays, with `[deprecated = true]`.
Before a first release `--break-clients` lets it go; then reserve its number and name, so that nobody takes them anew.
"""


def python_package(proto_package: str) -> str:
    """`atoll.v1` → `atoll_control.api.v1`."""
    return "atoll_control.api" + proto_package.removeprefix("atoll")


def rewritten(text: str) -> str:
    """The generated text with the packages of the protos replaced by those of Python."""
    for package in PACKAGES:
        target = python_package(package)
        module = rf"{re.escape(package)}\.(\w+_pb2)"
        text = re.sub(rf"\bfrom {re.escape(package)} import", f"from {target} import", text)
        text = re.sub(rf"(?<![\w.]){module}\b", rf"{target}.\1", text)
    return text


def generate() -> tuple[dict[Path, str], list[str]]:
    """Path in the package → text of each generated file, and what clients depend on."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    tools = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
        command += [f"--plugin={tools / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
        command += [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
        command += [f"--descriptor_set_out={out / 'descriptors'}"]
        subprocess.run([*command, *sources], check=True)  # noqa: S603 - a command written here
        descriptors = FileDescriptorSet.FromString((out / "descriptors").read_bytes())
        code = {
            API / path.relative_to(out / "atoll"): rewritten(path.read_text()) for path in sorted(out.rglob("*.py*"))
        }
    return code, surface.surface(descriptors)


def main() -> int:
    """Writes the files, or compares them."""
    parser = argparse.ArgumentParser(description="Regenerate the Python code of atoll's protos.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed code is out of date")
    parser.add_argument(
        "--break-clients", action="store_true", help="allow changes that break clients: before a first release only"
    )
    options = parser.parse_args()
    files, lines = generate()
    if broken := sorted(set(surface.published()) - set(lines)):
        for line in broken:
            sys.stderr.write(f"breaks clients, it is no longer so: {line}\n")
        if not options.break_clients:
            sys.stderr.write(REMEDY)
            return 1
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if lines != surface.published():
        stale.append(surface.FILE)
        files[surface.FILE] = surface.text(lines)
    if options.check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(API)}: out of date, run `make protos`\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
        sys.stdout.write(f"wrote {path.relative_to(API)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
