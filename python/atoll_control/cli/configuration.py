"""Settings from flags, the environment, a TOML file and defaults; whoever is named first here wins.

What there is to set is declared once, as the fields of a frozen dataclass:

    @dataclass(frozen=True, kw_only=True)
    class ServeOptions:
        data_dir: Path | None = setting(None, metavar="DIRECTORY", help="Where keys are kept.")

The field's name is the key in the file; the flag is then `--data-dir` and the variable `ATOLL_DATA_DIR`. A type is
`str`, `int`, `float`, `bool`, `Path`, a `StrEnum` or `tuple[str, ...]`, with or without None. Another program than the
server says with `PLACES: ClassVar[Places]` where its settings are looked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

DEFAULT_FILE: Final = Path("/etc/atoll/atoll.toml")
FILE_VARIABLE: Final = "ATOLL_CONFIG"
FILE_FLAG: Final = "--config"
PREFIX: Final = "ATOLL_"
_MAX_FILE_BYTES: Final = 1 << 20
_SETTING: Final = "setting"
_TRUE: Final = {"true", "yes", "on", "1"}
_FALSE: Final = {"false", "no", "off", "0"}


class ConfigurationError(Exception):
    """The operator has set something that can't be: each problem names the place, the setting and the remedy."""

    def __init__(self, problems: Iterable[str]) -> None:
        """Takes a line per problem."""
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class Source(StrEnum):
    """Where a value comes from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the settings of a program are looked for.

    Attributes:
        prefix: what the names of its variables begin with.
        file: what is read where nobody names another file; None for the server's.
        file_variable: names another file.
        tables: what the file may have besides settings, as `[[NAME]]`.
        listed_by: the command that lists all settings.
    """

    prefix: str = PREFIX
    file: Path | None = None
    file_variable: str = FILE_VARIABLE
    tables: tuple[str, ...] = ()
    listed_by: str = "atollctl config show"


@dataclass(frozen=True, kw_only=True)
class _Extras:
    """What a declaration says besides name, type and default; see `setting`."""

    help: str
    metavar: str | None
    minimum: float | None
    maximum: float | None
    check: Callable[[Any], str | None] | None
    flag_only: bool
    variable: str | None


def setting(
    default: T,
    *,
    help: str,  # noqa: A002 - what typer and click call it
    metavar: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    check: Callable[[Any], str | None] | None = None,
    flag_only: bool = False,
    variable: str | None = None,
) -> T:
    """Declares a setting: the right-hand side of a dataclass's field.

    Args:
        default: its value where nobody says otherwise.
        help: what it does, in sentences.
        metavar: what stands for the value in the help.
        minimum: of a number.
        maximum: of a number.
        check: says of a value what is wrong with it, beginning with "must be"; None when nothing is.
        flag_only: neither in the file nor in the environment, and not in the help: for programs that start this one.
        variable: its name in the environment, where that is not made from the setting's.
    """
    extras = _Extras(
        help=help,
        metavar=metavar,
        minimum=minimum,
        maximum=maximum,
        check=check,
        flag_only=flag_only,
        variable=variable,
    )
    declared: T = dataclasses.field(default=default, metadata={_SETTING: extras})
    return declared


@dataclass(frozen=True)
class Setting:
    """A declared setting.

    Attributes:
        name: the key in the file.
        type: of its value, without None; `tuple` for several texts.
        default: its value where nobody says otherwise.
        extras: the rest of the declaration.
        variable: as in `ATOLL_DATA_DIR`.
    """

    name: str
    type: type
    default: object
    extras: _Extras
    variable: str

    @property
    def flag(self) -> str:
        """As in `--data-dir`."""
        return "--" + self.name.replace("_", "-")

    def read_text(self, text: str) -> object:
        """The value that a flag or a variable says.

        Raises:
            ValueError: it is none; the message begins with "must be".
        """
        if self.type is tuple:
            return self._checked(tuple(part.strip() for part in text.split(",") if part.strip()))
        if self.type is bool:
            if (lowered := text.strip().lower()) in _TRUE | _FALSE:
                return self._checked(lowered in _TRUE)
            raise ValueError(f"must be true or false, got {text!r}")
        if self.type is int or self.type is float:
            try:
                return self._checked(self.type(text))
            except ValueError as error:
                if str(error).startswith("must "):
                    raise
                raise ValueError(f"must be {self._kind()}, got {text!r}") from None
        return self._read_string(text)

    def read_toml(self, value: object) -> object:
        """The value that the file says.

        Raises:
            ValueError: it is none; the message begins with "must be".
        """
        if self.type is tuple:
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                return self._checked(tuple(value))
        elif self.type is bool:
            if isinstance(value, bool):
                return self._checked(value)
        elif self.type is int or self.type is float:
            # TOML's `true` is no number, though Python's is.
            if isinstance(value, int if self.type is int else int | float) and not isinstance(value, bool):
                return self._checked(self.type(value))
        elif isinstance(value, str):
            return self._read_string(value)
        raise ValueError(f"must be {self._kind()}, got {_in_toml(value)}")

    def _read_string(self, text: str) -> object:
        if issubclass(self.type, StrEnum):
            choices = [member.value for member in self.type]
            if text not in choices:
                raise ValueError(f"must be one of {', '.join(choices)}, got {text!r}{_suggestion(text, choices)}")
        elif not text:
            raise ValueError("must not be empty: leave the setting out instead")
        return self._checked(self.type(text))

    def _checked(self, value: Any) -> object:  # noqa: ANN401 - any setting's
        least, most = self.extras.minimum, self.extras.maximum
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"must be a finite number, got {value}")
        if least is not None and value < least:
            raise ValueError(f"must be at least {least:,}, got {value:,}")
        if most is not None and value > most:
            raise ValueError(f"must be at most {most:,}, got {value:,}")
        if self.extras.check is not None and (problem := self.extras.check(value)) is not None:
            raise ValueError(problem)
        return value

    def _kind(self) -> str:
        kinds = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            tuple: 'an array of texts, such as ["a", "b"]',
        }
        return kinds.get(self.type, "a text in quotation marks")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    Attributes:
        source: the kind of place.
        place: the flag, the variable or the file; empty for a default.
    """

    source: Source
    place: str = ""


@dataclass(frozen=True)
class Configuration(Generic[T]):
    """What is set.

    Attributes:
        options: an object of the class that declares the settings.
        origins: by setting.
        file: what was read.
        tables: what the file has besides settings, by name; each is there, maybe empty.
    """

    options: T
    origins: Mapping[str, Origin]
    file: Path | None
    tables: Mapping[str, Sequence[Mapping[str, object]]] = dataclasses.field(default_factory=dict)

    def wrong(self, name: str, problem: str) -> ConfigurationError:
        """What is to be raised when a value that can be read can't be used."""
        return ConfigurationError([_where(settings_of(type(self.options))[name], self.origins[name]) + ": " + problem])


def settings_of(options: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by name, in its order."""
    return dict(_declared(options))


@functools.cache
def _declared(options: type) -> tuple[tuple[str, Setting], ...]:
    hints = typing.get_type_hints(options)
    prefix = places_of(options).prefix

    def declared(field: dataclasses.Field[Any]) -> Setting:
        extras: _Extras = field.metadata[_SETTING]
        variable = extras.variable or prefix + field.name.upper()
        return Setting(field.name, _plain(hints[field.name]), field.default, extras, variable)

    return tuple((field.name, declared(field)) for field in dataclasses.fields(options))


def places_of(options: type) -> Places:
    """Where the settings that a dataclass declares are looked for."""
    places: Places = getattr(options, "PLACES", Places())
    return places


def _plain(hint: Any) -> type:  # noqa: ANN401 - what annotations are
    """The type of a value that is there."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
    plain: type = typing.get_origin(hint) or hint
    return plain


def resolve(
    options: type[T], flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None
) -> Configuration[T]:
    """Puts together what is set.

    Args:
        options: declares the settings.
        flags: by setting; None and an empty list for flags that were not given. Texts are read, other values taken.
        environment: the process's.
        file: what `--config` says.

    Raises:
        ConfigurationError: with all that is wrong.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    origins: dict[str, Origin] = {}
    places = places_of(options)
    path = _file_of(file, environment, places)
    in_file = {} if path is None else _read_file(path, places)
    tables = {name: _tables(name, in_file.pop(name, []), path, problems) for name in places.tables}
    known = settings_of(options)
    in_file = {name: value for name, value in in_file.items() if _is_known(name, value, known, path, places, problems)}
    for name, declared in known.items():
        variable = "" if declared.extras.flag_only else environment.get(declared.variable, "")
        given = flags.get(name)
        try:
            if given is not None and given not in ([], ()):
                origins[name] = Origin(Source.FLAG, declared.flag)
                values[name] = _read_flag(declared, given)
            elif variable:
                origins[name] = Origin(Source.ENVIRONMENT, declared.variable)
                values[name] = declared.read_text(variable)
            elif name in in_file:
                origins[name] = Origin(Source.FILE, str(path))
                values[name] = declared.read_toml(in_file[name])
            else:
                origins[name] = Origin(Source.DEFAULT)
        except ValueError as error:
            problems.append(f"{_where(declared, origins[name])}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return Configuration(options(**values), origins, path, tables)


def _read_flag(declared: Setting, given: object) -> object:
    if isinstance(given, (list, tuple)):
        return declared.read_text(",".join(given))
    return declared.read_text(str(given)) if isinstance(given, (str, Path)) else given


def _where(declared: Setting, origin: Origin) -> str:
    """Where a value that is wrong can be put right."""
    match origin.source:
        case Source.ENVIRONMENT:
            return declared.variable
        case Source.FILE:
            return f"{origin.place}: {declared.name}"
        case Source.FLAG | Source.DEFAULT:
            return declared.flag


def _file_of(flag: Path | None, environment: Mapping[str, str], places: Places) -> Path | None:
    if flag is not None:
        return flag
    if variable := environment.get(places.file_variable, ""):
        return Path(variable)
    default = places.file or DEFAULT_FILE
    return default if default.exists() else None


def _read_file(path: Path, places: Places) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        remedy = f"name another with {FILE_FLAG} or {places.file_variable}"
        raise ConfigurationError([f"{path}: can't be read: {error.strerror}; {remedy}"]) from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError([f"{path}: is larger than {_MAX_FILE_BYTES:,} bytes: it is no file of settings"])
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = 'a line reads NAME = VALUE, with texts in quotation marks, as in data_dir = "/var/lib/atoll"'
        raise ConfigurationError([f"{path}: is not TOML: {error}; {remedy}"]) from None


def _tables(name: str, value: object, path: Path | None, problems: list[str]) -> list[dict[str, object]]:
    """What the file has as `[[name]]`; if that is something else, a problem is added."""
    if isinstance(value, list) and all(isinstance(table, dict) for table in value):
        return value
    problems.append(f"{path}: {name}: is written as [[{name}]], once for each, and NAME = VALUE in the lines below")
    return []


def _is_known(
    name: str,
    value: object,
    known: Mapping[str, Setting],
    path: Path | None,
    places: Places,
    problems: list[str],
) -> bool:
    """Whether the file may set it; if not, a problem is added."""
    names = [declared.name for declared in known.values() if not declared.extras.flag_only]
    if name in names:
        return True
    if isinstance(value, dict):
        what = f"{name} is a table, and settings have none: write them as NAME = VALUE above all [TABLES]"
    else:
        what = f"there is no setting {name!r}{_suggestion(name.replace('-', '_').lower(), names)}"
        if "did you mean" not in what:
            what += f"; `{places.listed_by}` lists all there are"
    problems.append(f"{path}: {what}")
    return False


def _suggestion(word: str, words: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _in_toml(value: object) -> str:
    """A value as it stands in the file, or nearly."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
