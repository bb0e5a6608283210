"""The Python code of the suites' services, generated when it is first needed, and certificates from a module of theirs.

The descriptions come with the programs' own modules, so a suite and its server are of the same version.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from conformance.go import BUILD, CONNECT, GRPC, program
from conformance.outcome import SuiteError

CERTIFICATES: Final = ("ca.pem", "server1.pem", "server1.key")
"""grpc-go's own, for hosts such as `foo.test.google.fr`."""


def folder() -> Path:
    """Return the folder with the packages ``interop`` and ``connectrpc``, and with ``CERTIFICATES``.

    Raises:
        UnavailableError: Go is missing, or a module can't be fetched.
        SuiteError: protoc fails.
    """
    tools = importlib.metadata.version("grpcio-tools")
    made = BUILD / f"generated-{GRPC.version}-{CONNECT.version}-{tools}"
    if made.exists():
        return made
    descriptors = program("descriptors", GRPC, str(Path(__file__).parent / "go" / "descriptors.go"))
    descriptions = BUILD / "interop.binpb"
    descriptions.write_bytes(subprocess.run([descriptors], capture_output=True, check=True).stdout)
    protos = CONNECT.folder() / "proto"
    unfinished = made.with_name(f"{made.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        interop = ["interop/empty.proto", "interop/messages.proto", "interop/test.proto", "interop/status.proto"]
        _protoc(unfinished, f"--descriptor_set_in={descriptions}", *interop)
        connect = [str(path.relative_to(protos)) for path in sorted(protos.rglob("*.proto"))]
        _protoc(unfinished, f"-I{protos}", *connect)
        for name in CERTIFICATES:
            shutil.copyfile(GRPC.folder() / "testdata" / name, unfinished / name)
        unfinished.rename(made)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return made


def _protoc(output: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--python_out={output}", f"--grpc_python_out={output}"]
    finished = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SuiteError(f"protoc can't generate Python code: {finished.stderr.strip()}")
