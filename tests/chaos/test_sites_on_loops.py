"""Each loop draws from sequences of its own, which depend on its name and not on what other loops do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import atoll
from atoll import chaos

if TYPE_CHECKING:
    from collections.abc import Iterator

SITE = chaos.site("test.on.loops")


def drawn_on(io_context: atoll.IoContext, count: int) -> list[bool]:
    """What `count` handlers of a resting loop draw."""
    drawn: list[bool] = []
    for _ in range(count):
        io_context.post(lambda: drawn.append(SITE.fires()))
    io_context.restart()
    io_context.run()
    assert len(drawn) == count
    return drawn


@pytest.fixture
def loops() -> Iterator[dict[str, atoll.IoContext]]:
    made = {name: atoll.IoContext(name) for name in ("nodes", "store")}
    yield made
    for io_context in made.values():
        io_context.close()


def test_one_loops_draws_do_not_depend_on_anothers(loops: dict[str, atoll.IoContext]) -> None:
    nodes, store = loops["nodes"], loops["store"]
    with chaos.sites(seed=1, activation=1, firing=0.5):
        alone = drawn_on(nodes, 60)
    with chaos.sites(seed=1, activation=1, firing=0.5):
        between = []
        for _ in range(6):
            drawn_on(store, 7)
            between += drawn_on(nodes, 10)
            SITE.fires()
    assert between == alone
    with chaos.sites(seed=1, activation=1, firing=0.5):
        assert drawn_on(store, 60) != alone


def test_the_steps_of_a_coroutine_handler_draw_on_its_loop(loops: dict[str, atoll.IoContext]) -> None:
    nodes = loops["nodes"]
    with chaos.sites(seed=1, activation=1, firing=0.5):
        expected = drawn_on(nodes, 20)
    drawn = []

    async def work() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
            drawn.append(SITE.fires())

    with chaos.sites(seed=1, activation=1, firing=0.5):
        nodes.restart()
        nodes.post(work)
        nodes.run()
    assert drawn == expected


def test_the_report_tells_loops_apart(loops: dict[str, atoll.IoContext], caplog: pytest.LogCaptureFixture) -> None:
    with chaos.sites(seed=1, activation=1, firing=1) as run:
        drawn_on(loops["nodes"], 3)
        drawn_on(loops["store"], 2)
        SITE.fires()
    count = run.report()["test.on.loops"]
    assert (count.reached, count.fired) == (6, 6)
    assert count.loops == (("", 1, 1), ("nodes", 3, 3), ("store", 2, 2))
    assert str(count) == "activated, fired 6 of 6 times (outside of loops: 1 of 1, nodes: 3 of 3, store: 2 of 2)"
    assert "Fault site test.on.loops fires on loop nodes, for the first time there" in caplog.text


def test_a_site_is_activated_on_all_loops_or_on_none(loops: dict[str, atoll.IoContext]) -> None:
    for seed in range(30):
        with chaos.sites(seed=seed, activation=0.5, firing=1):
            fired = [any(drawn_on(io_context, 2)) for io_context in loops.values()]
        assert len(set(fired)) == 1
