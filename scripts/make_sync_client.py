"""Makes the client without asyncio (`atoll_control/client/_sync`) of the one with it (`_aio`), word by word.

What does the I/O, `_channel.py` and `_watching.py`, is written by hand in both. `scripts/lint` says when a file is out
of date.

    python scripts/make_sync_client.py            write them
    python scripts/make_sync_client.py --check    say which are out of date
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parent.parent / "python" / "atoll_control" / "client"
BY_HAND = {"__init__.py", "_channel.py", "_watching.py"}
HEADER = "# Made of _aio/{name} by scripts/make_sync_client.py: change that, and run it.\n"

# In this order.
REPLACEMENTS = [
    (r"^ *import grpc\.aio\n", ""),
    (r"\bgrpc\.aio\.Channel\b", "grpc.Channel"),
    (r"_aio\b", "_sync"),
    (r"\b(\w+Service)AsyncStub\b", r"\1Stub"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncClient\b", "Client"),
    (r"\basync def\b", "def"),
    (r"\basync (for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    # Prose.
    (r", from asyncio\.", ", without asyncio."),
    (r"Connects when it is used, on the loop that it is used on\.", "Connects when it is used."),
]


def made(source: Path) -> str:
    """What becomes of a file."""
    text = source.read_text()
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    name = str(CLIENT / "_sync" / source.name)
    for command in (["check", "--quiet", "--select", "I", "--fix-only"], ["format", "--quiet"]):
        done = subprocess.run(
            ["ruff", *command, "--stdin-filename", name, "-"], input=text, capture_output=True, text=True, check=True
        )
        text = done.stdout
    return HEADER.format(name=source.name) + text


def main() -> int:
    """Writes the files, or compares them."""
    parser = argparse.ArgumentParser(description="Make the client without asyncio of the one with it.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    options = parser.parse_args()
    stale = 0
    sources = {path.name: path for path in sorted((CLIENT / "_aio").glob("*.py")) if path.name not in BY_HAND}
    for target in sorted((CLIENT / "_sync").glob("*.py")):
        if target.name in BY_HAND or target.name in sources:
            continue
        stale += 1
        if options.check:
            sys.stderr.write(f"{target.name}: made of a file that is gone, run scripts/make_sync_client.py\n")
        else:
            target.unlink()
            sys.stdout.write(f"removed {target.name}\n")
    for source in sources.values():
        target, text = CLIENT / "_sync" / source.name, made(source)
        if target.exists() and target.read_text() == text:
            continue
        stale += 1
        if options.check:
            sys.stderr.write(f"{target.name}: out of date, run scripts/make_sync_client.py\n")
        else:
            target.write_text(text)
            sys.stdout.write(f"wrote {target.name}\n")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
