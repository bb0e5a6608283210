"""Settings: where they come from, who wins, what is refused, and what `atollctl config show` tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from tests.control.commands import atollctl

from atoll_control.cli import configuration
from atoll_control.cli.configuration import Configuration, ConfigurationError, Origin, Source, resolve, setting
from atoll_control.cli.serve_options import ServeOptions, server_settings


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, kw_only=True)
class Options:
    name: str = setting("atoll", help="A text.")
    places: tuple[str, ...] = setting((), help="Several texts.")
    count: int | None = setting(None, help="A number.", minimum=1, maximum=10)
    share: float = setting(0.5, help="A number.")
    loud: bool = setting(default=False, help="Yes or no.")
    folder: Path | None = setting(None, help="A path.")
    colour: Colour = setting(Colour.RED, help="A choice.")
    word: str | None = setting(None, help="A text.", check=lambda word: f"must be good, got {word}")
    trick: bool = setting(default=False, help="For programs.", flag_only=True)


@pytest.fixture(autouse=True)
def _no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(configuration, "DEFAULT_FILE", tmp_path / "not-there.toml")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def problems(file: Path | None = None, /, *, flags: dict[str, object] | None = None, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        resolve(Options, flags or {}, environment, file)
    return list(caught.value.problems)


def test_a_flag_goes_before_the_environment_and_that_before_the_file_and_that_before_the_default(
    tmp_path: Path,
) -> None:
    file = written(tmp_path / "atoll.toml", 'name = "file"\nshare = 0.1\ncount = 1\n')
    environment = {"ATOLL_NAME": "environment", "ATOLL_SHARE": "0.2"}
    found = resolve(Options, {"name": "flag", "count": None}, environment, file)
    assert found.options == Options(name="flag", share=0.2, count=1)
    assert found.file == file
    assert {name: found.origins[name] for name in ("name", "share", "count", "loud")} == {
        "name": Origin(Source.FLAG, "--name"),
        "share": Origin(Source.ENVIRONMENT, "ATOLL_SHARE"),
        "count": Origin(Source.FILE, str(file)),
        "loud": Origin(Source.DEFAULT),
    }


def test_every_type_is_read_from_the_file(tmp_path: Path) -> None:
    file = written(
        tmp_path / "atoll.toml",
        'name = "a b"\nplaces = ["x:1", "y:2"]\ncount = 1_0\nshare = 1\nloud = true\n'
        'folder = "/srv"\ncolour = "green"\n',
    )
    options = resolve(Options, {}, {}, file).options
    assert options == Options(
        name="a b", places=("x:1", "y:2"), count=10, share=1.0, loud=True, folder=Path("/srv"), colour=Colour.GREEN
    )
    assert isinstance(options.share, float)


def test_every_type_is_read_from_the_environment_in_which_what_is_empty_is_not_set() -> None:
    environment = {
        "ATOLL_NAME": "",
        "ATOLL_PLACES": "x:1, y:2,",
        "ATOLL_COUNT": "10",
        "ATOLL_SHARE": "1e-1",
        "ATOLL_LOUD": "Yes",
        "ATOLL_FOLDER": "/srv",
        "ATOLL_COLOUR": "green",
        "ATOLL_TRICK": "1",
    }
    assert resolve(Options, {}, environment).options == Options(
        places=("x:1", "y:2"), count=10, share=0.1, loud=True, folder=Path("/srv"), colour=Colour.GREEN
    )


def test_a_flag_may_be_repeated_or_have_commas_and_may_say_no() -> None:
    found = resolve(Options, {"places": ["a", "b,c"], "loud": False, "trick": True}, {"ATOLL_LOUD": "true"})
    assert found.options == Options(places=("a", "b", "c"), trick=True)
    assert found.origins["loud"] == Origin(Source.FLAG, "--loud")


def test_a_flag_that_was_not_given_leaves_the_environment_in_force() -> None:
    assert resolve(Options, {"places": [], "loud": None}, {"ATOLL_PLACES": "a"}).options == Options(places=("a",))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nam = 'x'", "there is no setting 'nam'; did you mean name?"),
        ("Places = []", "there is no setting 'Places'; did you mean places?"),
        ("zzzzzz = 1", "there is no setting 'zzzzzz'; `atollctl config show` lists all there are"),
        ("trick = true", "there is no setting 'trick'; `atollctl config show` lists all there are"),
        ("[name]\nx = 1", "name: must be a text in quotation marks, got {'x': 1}"),
        (
            "[serve]\nname = 1",
            "serve is a table, and settings have none: write them as NAME = VALUE above all [TABLES]",
        ),
        ("name = 1", "name: must be a text in quotation marks, got 1"),
        ("name = ''", "name: must not be empty: leave the setting out instead"),
        ("places = 'x'", 'places: must be an array of texts, such as ["a", "b"], got \'x\''),
        ("places = [1]", 'places: must be an array of texts, such as ["a", "b"], got [1]'),
        ("count = 11", "count: must be at most 10, got 11"),
        ("count = 0", "count: must be at least 1, got 0"),
        ("count = 1.0", "count: must be a whole number, got 1.0"),
        ("count = true", "count: must be a whole number, got true"),
        ("share = 'x'", "share: must be a number, got 'x'"),
        ("share = inf", "share: must be a finite number, got inf"),
        ("loud = 1", "loud: must be true or false, got 1"),
        ("colour = 'gren'", "colour: must be one of red, green, got 'gren'; did you mean green?"),
        ("word = 'hush'", "word: must be good, got hush"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_the_file_the_key_and_the_remedy(
    tmp_path: Path, line: str, problem: str
) -> None:
    file = written(tmp_path / "atoll.toml", line)
    assert problems(file) == [f"{file}: {problem}"]


def test_what_is_wrong_in_the_environment_or_a_flag_is_told_with_its_name() -> None:
    assert problems(flags={"share": "x"}, ATOLL_COUNT="ten", ATOLL_LOUD="maybe", ATOLL_COLOUR="blue") == [
        "ATOLL_COUNT: must be a whole number, got 'ten'",
        "--share: must be a number, got 'x'",
        "ATOLL_LOUD: must be true or false, got 'maybe'",
        "ATOLL_COLOUR: must be one of red, green, got 'blue'",
    ]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "atoll.toml", "nam = 1\ncount = 0\n")
    assert len(problems(file, ATOLL_SHARE="x")) == 3


def test_a_file_that_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path / "atoll.toml", "name = atoll\n")
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: is not TOML: ")
    assert "line 1" in problem
    assert problem.endswith('as in data_dir = "/var/lib/atoll"')


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    (problem,) = problems(missing)
    assert problem == f"{missing}: can't be read: No such file or directory; name another with --config or ATOLL_CONFIG"
    large = written(tmp_path / "large.toml", "#" * (1 << 20) + "\n")
    assert problems(large) == [f"{large}: is larger than 1,048,576 bytes: it is no file of settings"]


def test_the_file_is_that_of_the_flag_then_of_the_variable_then_the_default_one_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: written(tmp_path / name, f'name = "{name}"') for name in ("flag", "variable", "default")}
    environment = {"ATOLL_CONFIG": str(files["variable"])}

    def name_in(environment: dict[str, str], flag: Path | None = None) -> str:
        return resolve(Options, {}, environment, flag).options.name

    assert name_in({}) == "atoll"
    monkeypatch.setattr(configuration, "DEFAULT_FILE", files["default"])
    assert [name_in(environment, files["flag"]), name_in(environment), name_in({"ATOLL_CONFIG": ""})] == list(files)


# ------------------------------------------------------------------------------------------------- of atollctl serve


def serve_configuration(**flags: object) -> Configuration[ServeOptions]:
    return resolve(ServeOptions, flags, {})


def test_addresses_of_other_machines_are_refused_without_a_word_for_it() -> None:
    with pytest.raises(ConfigurationError, match=r"--listen: 0\.0\.0\.0 may be reached from other machines"):
        server_settings(serve_configuration(listen="0.0.0.0:1"))
    allowed = serve_configuration(listen="0.0.0.0:1", insecure_beyond_loopback=True)
    assert server_settings(allowed).listen == "0.0.0.0:1"


def test_settings_that_do_not_go_together_are_told_with_where_they_are_set() -> None:
    configured = resolve(ServeOptions, {}, {"ATOLL_DEAD_AFTER": "3"})
    with pytest.raises(ConfigurationError, match=r"^ATOLL_DEAD_AFTER: must be at least 8 s"):
        server_settings(configured)


def test_config_show_tells_each_setting_its_value_and_where_it_comes_from(tmp_path: Path) -> None:
    file = written(tmp_path / "atoll.toml", 'data_dir = "/srv/atoll"\ndead_after = 20\n')
    arguments = ("config", "show", "--config", str(file), "--observe-only")
    result = atollctl(*arguments, "-o", "json", environment={"ATOLL_LOG_FORMAT": "json"})
    assert (result.returncode, result.stderr) == (0, "")
    shown: dict[str, Any] = {entry.pop("name"): entry for entry in json.loads(result.stdout)}
    assert shown["data_dir"] == {"value": "/srv/atoll", "source": "file", "place": str(file)}
    assert shown["dead_after"]["value"] == 20.0
    assert shown["observe_only"] == {"value": True, "source": "flag", "place": "--observe-only"}
    assert shown["log_format"] == {"value": "json", "source": "environment", "place": "ATOLL_LOG_FORMAT"}
    assert shown["listen"] == {"value": "127.0.0.1:50051", "source": "default", "place": ""}
    assert "demo_controls" not in shown
    table = atollctl(*arguments).stdout.splitlines()
    assert table[0].split() == ["SETTING", "VALUE", "FROM"]
    assert ["data_dir", "/srv/atoll", str(file)] in [line.split() for line in table]
    assert ["max_data_bytes", "-", "default"] in [line.split() for line in table]


def test_config_show_refuses_what_serve_refuses() -> None:
    for command in (("config", "show"), ("serve",)):
        arguments = (*command, "--heartbeat-interval", "4", "--listen", "0.0.0.0:1")
        result = atollctl(*arguments, environment={"ATOLL_GRACE": "-1"})
        assert result.returncode == 2
        assert result.stderr == "atollctl: ATOLL_GRACE: must be at least 0, got -1.0\n"
