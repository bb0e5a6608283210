"""`atoll check` shows the map of a policy, and fails with the policy's own words when it is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, Never
from xml.etree import ElementTree as ET

import pytest

from atoll import IoContextPolicy, dedicated
from atoll.cli._map import PolicyMap, as_json, as_table
from atoll.cli._picture import as_svg

if TYPE_CHECKING:
    from pathlib import Path

SVG: Final = "{http://www.w3.org/2000/svg}"

POLICIES: Final = """
from atoll import IoContextPolicy, dedicated

class Nodes: ...
class Kv: ...
class Leases: ...
class Metrics: ...

class Placement(IoContextPolicy[Nodes | Kv | Leases | Metrics]):
    nodes = dedicated(Nodes, lag_probe=0.05, cpu_affinity={0}, max_queued=100_000)
    storage = dedicated(Kv, Leases, name="kv", max_queued=7, stall_threshold=None)

class Simple(IoContextPolicy[Nodes]):
    nodes = dedicated(Nodes)

Alias = Simple
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a package of an author's."""
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "placement.py").write_text(POLICIES.replace("{0}", f"{{{_cpu()}}}"))
    return tmp_path


def _cpu() -> int:
    from atoll.loop._cpu_affinity import usable_cpus  # noqa: PLC0415 - beside its use

    return min(usable_cpus())


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as its entry point does, from an author's folder."""
    # Not with -m, which would put the folder on the path by itself.
    program = "import sys; sys.path.remove(''); sys.argv = ['atoll', 'check', *sys.argv[1:]]; import atoll.cli as it; "
    command = [sys.executable, "-c", program + "it.main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_table_shows_loops_modules_what_differs_from_the_defaults_and_the_default_loop(folder: Path) -> None:
    result = check(folder, "app.placement:Placement")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split(maxsplit=2) for line in result.stdout.splitlines() if line] == [
        ["app.placement:Placement"],
        ["LOOP", "MODULES", "OTHER THAN DEFAULT"],
        ["nodes", "Nodes", f"lag_probe=0.05, cpu_affinity={{{_cpu()}}}"],
        ["kv", "Kv,", "Leases   max_queued=7, stall_threshold=None"],
        ["(default)", "Metrics", "the loop that enters the provider, unless it is given another"],
    ]


def test_without_a_name_all_policies_of_the_module_are_shown_once(folder: Path) -> None:
    result = check(folder, "app.placement")
    titles = [line for line in result.stdout.splitlines() if line.startswith("app.")]
    assert titles == ["app.placement:Placement", "app.placement:Simple"]


def test_as_json_it_says_all_that_is_known_of_a_loops_placement(folder: Path) -> None:
    result = check(folder, "app.placement:Placement", "-o", "json")
    assert json.loads(result.stdout) == {
        "policies": [
            {
                "policy": "app.placement:Placement",
                "loops": [
                    {
                        "name": "nodes",
                        "modules": ["app.placement.Nodes"],
                        "lag_probe": 0.05,
                        "stall_threshold": 0.1,
                        "cpu_affinity": [_cpu()],
                        "counts_for_health": True,
                        "checked": True,
                        "settings": {"max_queued": 100_000},
                    },
                    {
                        "name": "kv",
                        "modules": ["app.placement.Kv", "app.placement.Leases"],
                        "lag_probe": 0.25,
                        "stall_threshold": None,
                        "cpu_affinity": None,
                        "counts_for_health": True,
                        "checked": True,
                        "settings": {"max_queued": 7},
                    },
                ],
                "default": ["app.placement.Metrics"],
            }
        ]
    }


def test_the_picture_is_written_where_it_is_asked_for(folder: Path) -> None:
    result = check(folder, "app.placement", "--svg", "map.svg")
    assert result.returncode == 0
    root = ET.fromstring((folder / "map.svg").read_text(encoding="utf-8"))  # noqa: S314 - our own
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"app.placement:Placement", "nodes", "kv", "Leases", "default loop", "Metrics"} <= set(texts)
    assert "lag probe every 50 ms" in texts


def test_a_picture_that_can_not_be_written_is_a_failure(folder: Path) -> None:
    result = check(folder, "app.placement", "--svg", "no/such/folder/map.svg")
    assert result.returncode == 1
    assert result.stderr.startswith("atoll check: --svg: ")
    assert result.stdout == ""


def test_a_wrong_policy_fails_with_its_own_words_and_the_line_but_no_traceback(folder: Path) -> None:
    (folder / "app" / "wrong.py").write_text(POLICIES + "class Wrong(IoContextPolicy[Kv]):\n    n = dedicated(Nodes)\n")
    result = check(folder, "app.wrong:Placement")
    assert result.returncode == 1
    line = POLICIES.count("\n") + 1
    assert result.stderr == (
        f"atoll check: app/wrong.py:{line}: Wrong.n places Nodes, which the policy does not cover: write class "
        "Wrong(IoContextPolicy[Kv | Nodes])\n"
    )


def test_a_module_that_fails_otherwise_is_shown_from_its_own_first_line_on(folder: Path) -> None:
    (folder / "app" / "failing.py").write_text("def divide():\n    1 / 0\ndivide()\n")
    result = check(folder, "app.failing")
    assert result.returncode == 1
    first, second, third, *_ = result.stderr.splitlines()
    assert (first, second) == ("atoll check: importing app.failing failed", "Traceback (most recent call last):")
    assert third.endswith('failing.py", line 3, in <module>')
    assert "importlib" not in result.stderr


@pytest.mark.parametrize("line", ["import not_there", "raise SystemExit(0)"])
def test_a_module_that_ends_or_lacks_something_is_a_failure(folder: Path, line: str) -> None:
    (folder / "app" / "ending.py").write_text(line)
    result = check(folder, "app.ending")
    assert (result.returncode, result.stdout) == (1, "")
    assert line in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: package.module:Policy"),
        (["app/placement.py"], "a module is named, not its file, so write app.placement"),
        (["./app/placement.py:Placement"], "so write app.placement:Placement"),
        (["app.placement:"], "'app.placement:' is not of the form package.module:Policy, or package.module for all"),
        ([":Placement"], "is not of the form package.module:Policy"),
        (["app.plcement"], "there is no module 'app.plcement' in "),
        (["ap.placement"], "there is no module 'ap' in "),
        (["app.placement:Placment"], "has no 'Placment': did you mean app.placement:Placement?"),
        (["app.placement:Elsewhere"], "the policies of app.placement are Placement, Simple"),
        (["app.placement:Nodes"], "not a policy: the policies of app.placement are Placement, Simple"),
        (["app"], "module app has no policy: name the one that has it"),
        (["app.placement", "-o", "yaml"], "invalid choice: 'yaml'"),
    ],
)
def test_wrong_usage_shows_the_right_form(folder: Path, arguments: list[str], message: str) -> None:
    result = check(folder, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "usage: atoll check" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_needs_no_extra(folder: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('typer', 'rich', 'grpc', 'structlog', 'typing_extensions'): sys.modules[name] = None\n"
        "sys.argv = ['atoll', 'check', 'app.placement:Simple']\n"
        "from atoll.cli import main; main()"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------------ the map


class Odd:
    """A module."""


class Outer:
    """Has a module of the same name."""

    class Odd:
        """Another module."""


def same_name() -> type:
    class Odd:
        """A module with the name of another."""

    Odd.__qualname__ = "Odd"
    Odd.__module__ = "elsewhere"
    return Odd


Other: Any = same_name()


def hook(*arguments: object) -> None:
    """An exception hook."""


class Hostile(IoContextPolicy[Odd | Outer.Odd | Other]):
    """Names that would break a picture that is not careful."""

    first = dedicated(Odd, Other, name="<script>&\"'\x00\ud800" + "long" * 40, exception_hook=hook)
    second = dedicated(Outer.Odd, name="島" * 40, recording=False, counts_for_health=False, lag_probe=False)


def test_modules_of_one_name_are_told_apart() -> None:
    table = as_table([PolicyMap.of("here:Hostile", Hostile)])
    assert f"{Odd.__module__}.Odd, elsewhere.Odd" in table
    assert "Outer.Odd" in table
    assert "exception_hook=hook" in table
    assert "recording=False, lag_probe=False, counts_for_health=False" in table
    loops: Any = json.loads(json.dumps(as_json([PolicyMap.of("here:Hostile", Hostile)])))["policies"][0]["loops"]
    assert loops[0]["settings"] == {"exception_hook": f"{hook.__module__}.hook"}


def test_the_picture_is_well_formed_whatever_the_names_and_keeps_its_texts_within_the_cards() -> None:
    root = ET.fromstring(as_svg([PolicyMap.of("here:Hostile", Hostile)]))  # noqa: S314 - our own
    names = [element for element in root.iter(f"{SVG}text") if "name" in element.attrib["class"].split()]
    assert [element.findtext(f"{SVG}title") for element in names] == [
        "<script>&\"'\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" + "long" * 40,
        "島" * 40,
    ]
    page = float(root.attrib["width"])
    cards = [element for element in root.iter(f"{SVG}rect") if element.attrib["class"] == "card"]
    assert all(float(card.attrib["x"]) + float(card.attrib["width"]) < page for card in cards)
    assert all(float(card.attrib["width"]) <= 400 for card in cards)


def test_a_policy_without_modules_is_drawn_and_told_too() -> None:
    class Nothing(IoContextPolicy[Never]):
        pass

    ET.fromstring(as_svg([PolicyMap.of("here:Nothing", Nothing)]))  # noqa: S314 - our own
    assert "no loops and no modules" in as_table([PolicyMap.of("here:Nothing", Nothing)])


def test_the_picture_is_legible_on_dark_pages_too() -> None:
    picture = as_svg([PolicyMap.of("here:Hostile", Hostile)])
    light, _, dark = picture.partition("@media (prefers-color-scheme: dark)")
    for style in (".page", ".title", ".card", ".name", ".pill", ".module", ".setting"):
        assert style in light
        assert style in dark
