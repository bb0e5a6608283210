"""Every mistake in a policy is an error when the class is made, which says how to mend it."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Never, TypeVar

import pytest

from atoll import AtollError, IoContextPolicy, dedicated
from atoll.errors import PlacementError
from atoll.loop._cpu_affinity import usable_cpus
from atoll.placement import Dedicated
from atoll.placement._options import PlacementOptions

T = TypeVar("T")


class Nodes:
    """A module."""


class Kv:
    """Another."""


class Metrics:
    """A third."""


class Typed(Generic[T]):
    """A generic one."""


def names(policy: type[IoContextPolicy[Any]]) -> list[tuple[str, tuple[type, ...]]]:
    return [(loop.name, loop.modules) for loop in policy._loops]


def test_a_policys_loops_are_named_for_their_attributes_unless_a_name_is_given() -> None:
    class Placement(IoContextPolicy[Nodes | Kv | Metrics]):
        node_io_context = dedicated(Nodes)
        storage = dedicated(Kv, name="kv", max_queued=5, loop_factory=asyncio.new_event_loop, exception_hook=None)

    assert names(Placement) == [("node_io_context", (Nodes,)), ("kv", (Kv,))]
    assert Placement._modules == (Nodes, Kv, Metrics)
    assert Placement._loops[1].options["max_queued"] == 5
    assert isinstance(Placement.storage, Dedicated)


def test_a_loop_is_probed_watched_and_counts_unless_the_policy_says_otherwise() -> None:
    cpu = min(usable_cpus())

    class Placement(IoContextPolicy[Nodes | Kv | Metrics]):
        node = dedicated(Nodes)
        kv = dedicated(
            Kv, lag_probe=0.05, stall_threshold=0.01, cpu_affinity=[cpu, cpu], counts_for_health=False, max_queued=9
        )
        metrics = dedicated(Metrics, lag_probe=False, stall_threshold=None, cpu_affinity=None)

    node, kv, metrics = Placement._loops
    assert node.placement == PlacementOptions(
        lag_probe=0.25, stall_threshold=0.1, cpu_affinity=None, counts_for_health=True
    )
    assert kv.placement == PlacementOptions(
        lag_probe=0.05, stall_threshold=0.01, cpu_affinity=frozenset({cpu}), counts_for_health=False
    )
    assert kv.options == {"max_queued": 9}, "IoContext gets what is its own"
    assert (metrics.placement.lag_probe, metrics.placement.stall_threshold) == (None, None)


def test_several_modules_may_share_a_loop() -> None:
    class Placement(IoContextPolicy[Nodes | Kv]):
        shared_io_context = dedicated(Nodes, Kv)

    assert names(Placement) == [("shared_io_context", (Nodes, Kv))]


def test_a_policy_may_place_nothing_or_cover_a_single_module_or_none() -> None:
    class AllOnDefault(IoContextPolicy[Nodes | Kv]):
        """Everything on the default loop."""

    class Single(IoContextPolicy[Nodes]):
        node_io_context = dedicated(Nodes)

    class Nothing(IoContextPolicy[Never]):
        pass

    assert (names(AllOnDefault), AllOnDefault._modules) == ([], (Nodes, Kv))
    assert Single._modules == (Nodes,)
    assert (names(Nothing), Nothing._modules) == ([], ())


def test_a_generic_module_is_its_class() -> None:
    class Placement(IoContextPolicy[Typed[int] | Nodes]):
        typed_io_context = dedicated(Typed)

    assert names(Placement) == [("typed_io_context", (Typed,))]


def test_underscored_attributes_are_the_policys_own_business() -> None:
    class Placement(IoContextPolicy[Nodes]):
        _note = "read me"
        node_io_context = dedicated(Nodes)

    assert names(Placement) == [("node_io_context", (Nodes,))]


def test_the_error_is_atolls_and_a_type_error() -> None:
    assert issubclass(PlacementError, AtollError)
    assert issubclass(PlacementError, TypeError)


def test_two_loops_of_one_name() -> None:
    with pytest.raises(
        PlacementError,
        match=r"Placement\.kv: the loop of node has the name 'main' too, .* write kv = dedicated\(Kv, name='kv'\)",
    ):

        class Placement(IoContextPolicy[Nodes | Kv]):
            node = dedicated(Nodes, name="main")
            kv = dedicated(Kv, name="main")


def test_a_module_on_two_loops() -> None:
    with pytest.raises(
        PlacementError, match=r"Placement\.second places Nodes, which lives on first already, .*remove it from one"
    ):

        class Placement(IoContextPolicy[Nodes | Kv]):
            first = dedicated(Nodes)
            second = dedicated(Kv, Nodes)


def test_a_module_named_twice_on_a_loop() -> None:
    with pytest.raises(PlacementError, match=r"Placement\.first names Nodes twice: name it once"):

        class Placement(IoContextPolicy[Nodes]):
            first = dedicated(Nodes, Nodes)


def test_one_loop_under_two_names() -> None:
    loop = dedicated(Nodes)
    with pytest.raises(PlacementError, match=r"Placement\.second is the same loop as first: keep one"):

        class Placement(IoContextPolicy[Nodes]):
            first = loop
            second = loop


def test_a_module_that_the_policy_does_not_cover() -> None:
    with pytest.raises(
        PlacementError, match=r"Placement\.kv places Kv, .*write class Placement\(IoContextPolicy\[Nodes \| Kv\]\)"
    ):

        class Placement(IoContextPolicy[Nodes]):
            kv = dedicated(Kv)


def test_a_loop_without_modules() -> None:
    with pytest.raises(PlacementError, match=r"Placement\.first is a loop without a module: .*dedicated\(Module\)"):

        class Placement(IoContextPolicy[Nodes]):
            first = dedicated()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_queed": 1}, "a loop has no option 'max_queed': did you mean max_queued=?"),
        ({"threads": 1}, "a loop has no option 'threads': the options are checked, clock, counts_for_health, "),
        ({"lag_prob": 1}, "a loop has no option 'lag_prob': did you mean lag_probe=?"),
        ({"lag_probe": 0}, "lag_probe=0 is no interval: write True for 0.25 s, False for no probe, or a number of"),
        ({"lag_probe": "often"}, "lag_probe='often' is no interval"),
        ({"lag_probe": float("nan")}, "lag_probe=nan is no interval"),
        ({"lag_probe": None}, "lag_probe=None is no interval"),
        ({"stall_threshold": 0.0}, "stall_threshold=0.0 is no duration: write None for no reports, or a number of"),
        ({"stall_threshold": True}, "stall_threshold=True is no duration"),
        ({"checked": None}, "checked=None is neither True nor False"),
        ({"counts_for_health": 1}, "counts_for_health=1 is neither True nor False"),
        ({"cpu_affinity": {100_000}}, "cpu_affinity: this process has no CPU 100000; it may use "),
        ({"cpu_affinity": ()}, "cpu_affinity=() leaves the loop no CPU"),
        ({"cpu_affinity": "0"}, "cpu_affinity='0' is no set of CPU numbers"),
        ({"cpu_affinity": 0}, "cpu_affinity=0 is no set of CPU numbers, such as {0}; this process may use "),
        ({"cpu_affinity": [True]}, "cpu_affinity: True is no CPU number"),
        ({"max_queued": {"urgent": 1}}, "max_queued names the lane 'urgent': it is one of 'control', "),
        ({"max_queued": {"bulk": 0}}, "max_queued['bulk']=0 is not a whole number"),
        ({"lane_weights": {"control": -1}}, "lane_weights['control']=-1 is not a whole number"),
        ({"lane_weights": 3}, "lane_weights=3 is no mapping of lanes, such as {'bulk': 4}"),
        ({"max_delayed": 0}, "max_delayed=0 is not a whole number"),
        ({"clock": 7}, "clock=7 is no clock: pass one, such as atoll.testing.ManualClock()"),
        ({"seed": "luck"}, "seed='luck' is not a whole number"),
        ({"max_queued": 0}, "max_queued=0 is not a whole number"),
        ({"max_queued": "many"}, "max_queued='many' is not a whole number"),
        ({"drain_budget": -1.0}, "drain_budget=-1.0 is not a positive number"),
        ({"drain_budget": None}, "drain_budget"),
        ({"loop_factory": "uvloop"}, "loop_factory='uvloop' can't be called: pass a function"),
        ({"exception_hook": 1}, "exception_hook=1 can't be called"),
    ],
)
def test_an_option_that_can_not_work(option: dict[str, Any], message: str) -> None:
    with pytest.raises(PlacementError) as caught:

        class Placement(IoContextPolicy[Nodes]):
            first = dedicated(Nodes, **option)

    assert "Placement.first: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["", 7])
def test_a_name_that_names_nothing(name: Any) -> None:
    with pytest.raises(PlacementError, match=r"names no loop: write first = dedicated\(Nodes\)"):

        class Placement(IoContextPolicy[Nodes]):
            first = dedicated(Nodes, name=name)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("Nodes", r"'Nodes' is a string, and a module is a class: import it and write Nodes"),
        (Nodes(), r"is not a class: a module is named by its class"),
        (len, r"is not a class"),
        (None, r"None is not a class"),
        (type(None), r"is no module"),
        (object, r"is no module"),
    ],
)
def test_a_module_that_is_no_class(module: Any, message: str) -> None:
    with pytest.raises(PlacementError, match=rf"Placement\.first: .*{message}"):

        class Placement(IoContextPolicy[Nodes]):
            first = dedicated(module)


@pytest.mark.parametrize("value", [Nodes, dedicated, 7, lambda: None, None])
def test_an_attribute_that_is_no_loop(value: Any) -> None:
    with pytest.raises(PlacementError, match=r"Placement\.first is .*write first = dedicated\((Nodes|Module)\)"):

        class Placement(IoContextPolicy[Nodes]):
            first = value


def test_an_attribute_without_a_value() -> None:
    with pytest.raises(PlacementError, match=r"Placement\.first has no value: write first = dedicated\(Module\)"):

        class Placement(IoContextPolicy[Nodes]):
            first: Dedicated


def test_a_policy_that_does_not_say_what_it_covers() -> None:
    with pytest.raises(PlacementError, match=r"write class Placement\(IoContextPolicy\[A \| B\]\)"):

        class Placement(IoContextPolicy):  # type: ignore[type-arg]
            first = dedicated(Nodes)


@pytest.mark.parametrize("parameter", [Any, "Nodes", None, T])
def test_a_policy_that_covers_something_else_than_classes(parameter: Any) -> None:
    with pytest.raises(PlacementError, match=r"IoContextPolicy\[\.\.\.\] of Placement: "):

        class Placement(IoContextPolicy[parameter]):
            pass


def test_a_policy_can_not_be_extended() -> None:
    class Placement(IoContextPolicy[Nodes | Kv]):
        first = dedicated(Nodes)

    with pytest.raises(PlacementError, match=r"Extended extends a policy, .*write all its loops into one class"):

        class Extended(Placement):
            second = dedicated(Kv)


def test_a_policy_has_no_instances() -> None:
    class Placement(IoContextPolicy[Nodes]):
        pass

    with pytest.raises(PlacementError, match=r"pass the class, IoContextProvider\(Placement\)"):
        Placement()
