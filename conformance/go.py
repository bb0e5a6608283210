"""The suites' programs: which ones, and how they are fetched, checked and built.

Each is pinned by the version and the checksum of its module; what that needs is pinned by its own ``go.sum``, because
it is built within its own module. A program that has been built is kept until its version changes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from conformance.outcome import SuiteError, UnavailableError

REPOSITORY: Final = Path(__file__).resolve().parent.parent
BUILD: Final = REPOSITORY / "build" / "conformance"
FETCH_SECONDS: Final = 240
BUILD_SECONDS: Final = 1200


@dataclass(frozen=True)
class Module:
    """A version of a Go module, and the checksum that it must have."""

    path: str
    version: str
    checksum: str

    def folder(self) -> Path:
        """Fetch the module unless it is there, and return the folder of its sources, which is read-only.

        Raises:
            UnavailableError: Go is missing, or the module can't be fetched.
            SuiteError: what was fetched is not what was asked for.
        """
        finished = _go(Path("/"), "mod", "download", "-json", f"{self.path}@{self.version}", seconds=FETCH_SECONDS)
        try:
            answer = json.loads(finished.stdout)
        except ValueError:
            answer = {}
        if finished.returncode or "Dir" not in answer:
            reason = answer.get("Error") or _last_line(finished.stderr)
            raise UnavailableError(f"the Go module {self.path}@{self.version} can't be fetched: {reason}")
        if answer["Sum"] != self.checksum:
            raise SuiteError(
                f"{self.path}@{self.version} has the checksum {answer['Sum']}, not {self.checksum}: "
                f"what was fetched is not what this was written for"
            )
        return Path(answer["Dir"])


GRPC: Final = Module("google.golang.org/grpc", "v1.83.1", "h1:HIO0+BEtBP6soyqvqC8sNUjZ7bTs+0hFQuFF+RAy++Y=")
CONNECT: Final = Module("connectrpc.com/conformance", "v1.0.5", "h1:w5d+gBj0uUX/DAN+hInQMeUxYTmec5m1Vvi2s/6V56s=")
GRPCURL: Final = Module("github.com/fullstorydev/grpcurl", "v1.9.3", "h1:PC1Xi3w+JAvEE2Tg2Gf2RfVgPbf9+tbuQr1ZkyVU3jk=")


def program(name: str, module: Module, package: str) -> Path:
    """Return the program that ``package`` of ``module`` is, built if need be.

    ``package`` is a folder of the module, or an absolute path of a Go file that imports from it.

    Raises:
        UnavailableError: Go is missing or too old, or a module can't be fetched.
        SuiteError: the program can't be built.
    """
    built = BUILD / "bin" / f"{name}-{module.version}"
    if built.exists():
        return built
    sys.stderr.write(f"==> building {name} of {module.path}@{module.version}; the first time takes minutes\n")
    folder = module.folder()
    # Fetches what is needed besides, and compiles nothing: what fails here is not a failure of the build.
    listed = _go(folder, "list", "-deps", package, seconds=FETCH_SECONDS)
    if listed.returncode:
        raise UnavailableError(f"what {name} is built from can't be fetched: {_last_line(listed.stderr)}")
    unfinished = built.with_name(f"{built.name}.{os.getpid()}")
    compiled = _go(folder, "build", "-o", unfinished, package, seconds=BUILD_SECONDS)
    if compiled.returncode:
        raise SuiteError(f"{name} can't be built:\n{compiled.stderr[-4000:]}")
    unfinished.rename(built)
    return built


def _go(folder: Path, *arguments: str | Path, seconds: float) -> subprocess.CompletedProcess[str]:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/opt/homebrew/bin")
    if go is None:
        raise UnavailableError(
            "Go is missing; get it with: brew install go | apt install golang-go, or from go.dev/dl (1.25 or newer; "
            "from 1.21 on it can fetch newer ones itself)"
        )
    # A patient priority: a build takes minutes on all cores.
    command = ["nice", go, *arguments]
    environment = os.environ | {"GOWORK": "off", "CGO_ENABLED": "0"}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"go {arguments[0]} did not end within {seconds:.0f} s") from None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return lines[-1].strip() if lines else "go says nothing"
