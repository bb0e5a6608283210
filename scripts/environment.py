"""Creates the virtual environments of the make targets, keeps them up to date, and runs commands in them.

    python scripts/environment.py SET [--] [COMMAND [ARGUMENT...]]

started by scripts/with, which finds the interpreter. Every interpreter version has its environment, `.venv/3.13` say. A
set names the lock files that are installed into it and whether Atoll itself is: built as a wheel, as a user would get
it, never imported from the source tree. What is there already is recognised by digests of what it was made from (the
lock files' texts for the tools, the sources' for the wheel), so that a second run does nothing. Two runs in one tree
that have something to do wait for each other.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


@dataclass(frozen=True)
class Contents:
    """What a set brings into its environment."""

    locks: tuple[str, ...]
    atoll: bool = True
    # A second environment beside the usual one, for tools that need other versions than we do.
    suffix: str = ""


SETS = {
    "build": Contents(("build", "runtime")),
    "demo": Contents(("build", "runtime")),
    "test": Contents(("build", "runtime", "test", "test-grpc")),
    "lint": Contents(("build", "runtime", "test", "test-grpc", "lint")),
    "docs": Contents(("build", "runtime", "docs")),
    "bench": Contents(("build", "runtime", "bench")),
    "protoc": Contents(("protoc",), atoll=False, suffix="-protoc"),
    "lock": Contents(("lock",), atoll=False, suffix="-lock"),
}
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# What has no wheels for free-threaded builds; they get the rest of each lock file.
NO_WHEELS = {"grpcio", "grpcio-tools", "pygrpc-native"}
# Of these the Python half is enough for servers and for `-o yaml`; distributions and their packages.
BORROWED = {"grpcio": "grpc"}
# A lock file of older releases, which have wheels where newer ones have none.
OLDER_RELEASES = "free-threaded-313"
if FREE_THREADED and sys.version_info < (3, 14):
    # Free threading was an experiment then; by now most projects make wheels for 3.14 and later only.
    NO_WHEELS |= {
        "ast-serialize",
        "cffi",
        "cryptography",
        "hypothesis",
        "librt",
        "mypy",
        "pydantic",
        "pydantic-core",
        "pyyaml",
        "rloop",
        "uvloop",
    }
    BORROWED["pyyaml"] = "yaml"
    SETS = {
        name: replace(contents, locks=(*contents.locks, OLDER_RELEASES)) if "runtime" in contents.locks else contents
        for name, contents in SETS.items()
    }

# What the wheel is made from.
SOURCES = ("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE", "crates", "python")
# Settings of the compiler that change what it makes.
COMPILER_SETTINGS = ("RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_PROFILE_RELEASE_LTO", "CARGO_PROFILE_RELEASE_DEBUG")

# Set for the steps that run while this process holds the lock of the tree.
LOCK_INHERITED = "ATOLL_TREE_LOCK_INHERITED"

# In a log; on a terminal the one line is rewritten all the time.
SECONDS_BETWEEN_LINES = 30


class Failure(Exception):  # noqa: N818 - it ends the program with its message, as SystemExit does
    """A step did not work; the message says which one and what is to be done."""


def say(message: str) -> None:
    """Prints a line about what is being done."""
    print(f"==> {message}", file=sys.stderr, flush=True)


def digest(*parts: str | bytes) -> str:
    """Returns a digest of the parts, in their order."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def run_step(title: str, command: list[str | Path]) -> None:
    """Runs one command of the set-up, its output going to build/logs.

    A terminal shows the newest line of the output and the seconds so far, a log one such line in half a minute. Only
    when the command fails is the end of its output shown.

    Raises:
        Failure: the command failed.
    """
    say(title)
    log = BUILD / "logs" / f"{Path(str(command[0])).name}-{Path(str(command[1])).name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = shown = time.monotonic()
    on_terminal = sys.stderr.isatty()
    width = shutil.get_terminal_size().columns - 12
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2 if on_terminal else 5)
                    break
                now = time.monotonic()
                if on_terminal or now - shown > SECONDS_BETWEEN_LINES:
                    shown = now
                    line = last_line(log)[:width]
                    start, end = ("\r\x1b[K", "") if on_terminal else ("", "\n")
                    print(f"{start}    {now - started:3.0f} s  {line}", end=end, file=sys.stderr, flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            if on_terminal:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if process.returncode:
        print("\n".join(log.read_text(errors="replace").splitlines()[-60:]), file=sys.stderr)
        message = f"failed with exit code {process.returncode}: {title} (the whole output: {log.relative_to(ROOT)})"
        raise Failure(message)


def last_line(log: Path) -> str:
    """Returns the newest line of a log that has something in it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = [line.strip() for line in file.read().decode(errors="replace").replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")


@contextlib.contextmanager
def exclusively() -> Iterator[None]:
    """Keeps two runs in this tree from building or installing at the same time.

    A run that one of our own steps starts (a crate's build asks for protoc) has the lock by inheritance.
    """
    if os.environ.get(LOCK_INHERITED):
        yield
        return
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another make in this tree")
            fcntl.flock(file, fcntl.LOCK_EX)
        os.environ[LOCK_INHERITED] = "yes"
        try:
            yield
        finally:
            del os.environ[LOCK_INHERITED]


class Environment:
    """One virtual environment, and in `state.json` within it what it was made from."""

    def __init__(self, suffix: str) -> None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.key = version + sys.abiflags
        self.home = ROOT / ".venv" / (self.key + suffix)
        self.python = self.home / "bin" / "python"
        self._state_file = self.home / "state.json"
        self._base = f"{sys.version} of {os.path.realpath(sys.executable)}"

    def _state(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self._state_file.read_text()))
        return {}

    def _remember(self, key: str, value: str) -> None:
        self._state_file.write_text(json.dumps(self._state() | {key: value}, indent=2))

    def is_ready(self, contents: Contents) -> bool:
        """Whether everything in it is up to date."""
        state = self._state()
        ready = state.get("base") == self._base
        ready = ready and all(state.get(name) == digest(lock_text(name)) for name in contents.locks)
        return ready and (not contents.atoll or state.get("atoll") == source_digest())

    def _pip_install(self, title: str, *arguments: str | Path) -> None:
        common = ["--quiet", "--no-input", "--no-deps", "--disable-pip-version-check"]
        run_step(title, [self.python, "-m", "pip", "install", *common, *arguments])

    def ensure(self, locks: Sequence[str]) -> None:
        """Creates the environment unless it is there, and installs the lock files that are not installed yet.

        When a lock file has changed, or the interpreter, the environment is made anew: it never holds leftovers.
        """
        texts = {name: lock_text(name) for name in locks}
        state = self._state()
        changed = any(name in state and state[name] != digest(text) for name, text in texts.items())
        if state.get("base") != self._base or changed:
            shutil.rmtree(self.home, ignore_errors=True)
            where = self.home.relative_to(ROOT)
            if rejected := os.environ.get("ATOLL_REJECTED_PYTHONS"):
                say(f"not usable: {rejected}")
            run_step(
                f"creating {where} with CPython {sys.version.split()[0]}", [sys.executable, "-m", "venv", self.home]
            )
            self._remember("base", self._base)
            state = self._state()
        missing = [name for name in locks if name not in state]
        for name in missing:
            count = texts[name].count("==")
            if count:
                path = Path("requirements", f"{name}.txt")
                lock = BUILD / "locks" / self.key / path.name
                lock.parent.mkdir(parents=True, exist_ok=True)
                lock.write_text(texts[name])
                what = f"installing {path} ({count} packages)"
                self._pip_install(what, "--require-hashes", "--only-binary", ":all:", "-r", lock)
            self._remember(name, digest(texts[name]))

    def borrow(self, lender: Path) -> None:
        """Installs the Python halves of `BORROWED` from an environment that has the whole of them."""
        stand_in = ROOT / "tests" / "without_grpcio" / "cygrpc.py"
        (packages,) = self.home.glob("lib/python3.*/site-packages")
        (source,) = lender.glob("lib/python3.*/site-packages")
        metadata = {name: next(source.glob(f"{name}-[0-9]*.dist-info")) for name in BORROWED}
        made_from = digest("borrowed", *(found.name for found in metadata.values()), stand_in.read_bytes())
        if self._state().get("borrowed") == made_from:
            return
        for name, folder in BORROWED.items():
            say(f"installing the Python half of {name}")
            shutil.rmtree(packages / folder, ignore_errors=True)
            shutil.copytree(source / folder, packages / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            # Who asks which version is installed, as OpenTelemetry does of grpcio, reads it there.
            for earlier in packages.glob(f"{name}-[0-9]*.dist-info"):
                shutil.rmtree(earlier)
            shutil.copytree(metadata[name], packages / metadata[name].name)
        shutil.copy(stand_in, packages / "grpc" / "_cython" / "cygrpc.py")
        self._remember("borrowed", made_from)

    def ensure_atoll(self) -> None:
        """Builds the wheel and installs it, unless the one that is installed is of these sources."""
        made_from = source_digest()
        if self._state().get("atoll") == made_from:
            return
        self._pip_install("installing Atoll", "--no-index", "--force-reinstall", self.wheel(made_from))
        self._remember("atoll", made_from)

    def wheel(self, made_from: str) -> Path:
        """Returns the wheel of the sources that have the digest `made_from`, built if need be."""
        folder = BUILD / "wheels" / self.key
        stamp = folder / "made-from"
        wheels = list(folder.glob("*.whl"))
        if len(wheels) == 1 and stamp.exists() and stamp.read_text() == made_from:
            return wheels[0]
        shutil.rmtree(folder, ignore_errors=True)
        first = "" if (target_folder() / "release" / "deps").exists() else "; the first time takes minutes"
        maturin: list[str | Path] = [self.home / "bin" / "maturin", "build", "--release", "--locked", "--out", folder]
        run_step(f"building Atoll (release) for CPython {self.key}{first}", [*maturin, "--interpreter", self.python])
        (wheel,) = folder.glob("*.whl")
        stamp.write_text(made_from)
        return wheel


def lock_text(name: str) -> str:
    """Returns the lock file of that name, on a free-threaded build without what has no wheels for it."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    if not FREE_THREADED or name == OLDER_RELEASES:
        return text
    # A package begins at the margin; its hashes and comments are indented.
    packages = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)
    return "".join(package for package in packages if package.partition("==")[0] not in NO_WHEELS)


def target_folder() -> Path:
    """Returns where cargo builds."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target")


def source_digest() -> str:
    """Returns a digest of the wheel's sources, the compiler and its settings."""
    files: list[Path] = []
    for source in SOURCES:
        path = ROOT / source
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    parts: list[str | bytes] = []
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts and file.suffix not in {".so", ".dylib"}:
            parts += [str(file.relative_to(ROOT)), file.read_bytes()]
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, check=True).stdout
    settings = json.dumps({name: os.environ.get(name) for name in COMPILER_SETTINGS})
    return digest(compiler, settings, *parts)


def prepare_second(name: str) -> Path | None:
    """On a free-threaded build, prepares the set for a second interpreter, where clients run; returns its environment.

    scripts/with has put an interpreter with a GIL in ATOLL_SECOND_PYTHON, if there is one.
    """
    interpreter = os.environ.pop("ATOLL_SECOND_PYTHON", None)
    if not FREE_THREADED or interpreter is None:
        return None
    show = ["python", "-c", "import sys; print(sys.prefix)"]
    shown = subprocess.run([interpreter, __file__, name, "--", *show], stdout=subprocess.PIPE, text=True, check=False)
    if shown.returncode:
        raise Failure(f"the environment of {interpreter}, where clients are to run, could not be prepared: see above")
    return Path(shown.stdout.strip())


def prepare(name: str) -> Environment:
    """Returns the environment of a set, up to date."""
    contents = SETS[name]
    second = prepare_second(name) if name == "test" else None
    environment = Environment(contents.suffix)
    # Then nothing is to be waited for: not for another environment, which is built beside this one's tests, say.
    if second is None and environment.is_ready(contents):
        return environment
    with exclusively():
        environment.ensure(contents.locks)
        if second is not None:
            environment.borrow(second)
            os.environ["ATOLL_CLIENT_PYTHON"] = str(second / "bin" / "python")
        if contents.atoll:
            environment.ensure_atoll()
    return environment


def main() -> int:
    """Prepares the environment and becomes the command; returns an exit code only if there is none, or on failure."""
    _, name, *command = sys.argv
    if command[:1] == ["--"]:
        del command[0]
    if name not in SETS:
        print(f"atoll: there is no set {name}; the sets are {', '.join(SETS)}", file=sys.stderr)
        return 64
    try:
        environment = prepare(name)
    except Failure as failure:
        print(f"atoll: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not command:
        return 0
    # Cargo links the binding's checks against this interpreter, too.
    variables = {"VIRTUAL_ENV": str(environment.home), "PYO3_PYTHON": str(environment.python)}
    os.environ.update(variables, PATH=f"{environment.home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    os.environ.pop("PYTHONHOME", None)
    os.chdir(ROOT)
    sys.stderr.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"atoll: {command[0]} does not start: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
