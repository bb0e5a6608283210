"""What a policy says, as a map of loops and modules: for people as a table, for programs as JSON.

The settings that it shows are those that differ from the defaults.
"""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from atoll.loop import IoContext
from atoll.placement import PlacementOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.placement import IoContextPolicy, PlacedLoop

DEFAULT_LOOP: Final = "the loop that enters the provider, unless it is given another"
_HEADINGS: Final = ("LOOP", "MODULES", "OTHER THAN DEFAULT")
_GAP: Final = "   "


@dataclass(frozen=True)
class LoopMap:
    """One loop.

    Attributes:
        name: The loop's name.
        modules: The names of the classes that live on it, as short as they are unambiguous.
        settings: What differs from the defaults, by option.
        loop: All that the policy says of it.
    """

    name: str
    modules: tuple[str, ...]
    settings: dict[str, object]
    loop: PlacedLoop


@dataclass(frozen=True)
class PolicyMap:
    """One policy.

    Attributes:
        title: Its full name, as `atoll check` takes it.
        loops: Its loops, in the order of declaration.
        default: The names of the modules that live on the default loop.
        default_modules: Their classes.
    """

    title: str
    loops: tuple[LoopMap, ...]
    default: tuple[str, ...]
    default_modules: tuple[type, ...]

    @classmethod
    def of(cls, title: str, policy: type[IoContextPolicy[Any]]) -> PolicyMap:
        """Reads a policy."""
        loops = policy._loops  # noqa: SLF001 - what a policy knows is no attribute of it, where users' names are
        modules = policy._modules  # noqa: SLF001 - the same
        names = _names(modules)
        placed = {module for loop in loops for module in loop.modules}
        default = tuple(module for module in modules if module not in placed)
        maps = tuple(
            LoopMap(loop.name, tuple(names[module] for module in loop.modules), _settings(loop), loop) for loop in loops
        )
        return cls(title, maps, tuple(names[module] for module in default), default)


def _names(modules: Sequence[type]) -> dict[type, str]:
    """The classes' names; with their modules where two have the same."""
    short = [module.__qualname__ for module in modules]
    return {
        module: module.__qualname__ if short.count(module.__qualname__) == 1 else full_name(module)
        for module in modules
    }


def full_name(module: type) -> str:
    """Where the class is."""
    return f"{module.__module__}.{module.__qualname__}"


def _settings(loop: PlacedLoop) -> dict[str, object]:
    defaults = {name: it.default for name, it in inspect.signature(IoContext.__new__).parameters.items()}
    usual = asdict(PlacementOptions())
    given = {**loop.options, **asdict(loop.placement)}
    return {option: value for option, value in given.items() if value != defaults.get(option, usual.get(option))}


def written(option: str, value: object) -> str:
    """A setting's value as one would write it."""
    if option == "lag_probe" and value is None:
        return "False"
    if isinstance(value, frozenset):
        return f"{{{', '.join(str(each) for each in sorted(value))}}}"
    name = getattr(value, "__qualname__", None)
    return name if callable(value) and isinstance(name, str) else repr(value)


def as_table(maps: Sequence[PolicyMap]) -> str:
    """For people."""
    return "\n".join(_table(policy) for policy in maps)


def _table(policy: PolicyMap) -> str:
    rows = [_HEADINGS]
    for loop in policy.loops:
        settings = ", ".join(f"{option}={written(option, value)}" for option, value in loop.settings.items())
        rows.append((loop.name, ", ".join(loop.modules), settings or "–"))
    if policy.default:
        rows.append(("(default)", ", ".join(policy.default), DEFAULT_LOOP))
    if len(rows) == 1:
        return f"{policy.title}\n\n  no loops and no modules\n"
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"  {first:<{widths[0]}}{_GAP}{second:<{widths[1]}}{_GAP}{third}" for first, second, third in rows]
    return "\n".join([policy.title, "", *lines, ""])


def as_json(maps: Sequence[PolicyMap]) -> dict[str, object]:
    """For programs: modules by their full names, and all that is said of a loop's placement."""
    return {"policies": [_policy_as_json(policy) for policy in maps]}


def _policy_as_json(policy: PolicyMap) -> dict[str, object]:
    return {
        "policy": policy.title,
        "loops": [
            {
                "name": loop.name,
                "modules": [full_name(module) for module in loop.loop.modules],
                **{option: _plain(value) for option, value in asdict(loop.loop.placement).items()},
                "settings": {option: _plain(value) for option, value in loop.loop.options.items()},
            }
            for loop in policy.loops
        ],
        "default": [full_name(module) for module in policy.default_modules],
    }


def _plain(value: object) -> object:
    """What JSON can say of it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if isinstance(name, str) else repr(value)
