"""Lanes: bounds, weights, and that what a handler posts goes where the handler came from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from atoll.errors import MailboxFull

if TYPE_CHECKING:
    from collections.abc import Callable

    import atoll
    from atoll.loop import Lane


def test_each_lane_may_have_a_bound_of_its_own(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_queued={"bulk": 1})
    io_context.post(print, lane="bulk")
    with pytest.raises(MailboxFull, match="bulk lane of loop 'test' holds 1 handlers"):
        io_context.post(print, lane="bulk")
    io_context.post(lambda: None)
    io_context.post(lambda: None)


def test_weights_say_how_many_of_a_lane_run_before_the_next_has_its_turn(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(lane_weights={"control": 2, "normal": 1, "bulk": 1})
    ran: list[str] = []
    lanes: tuple[Lane, ...] = ("bulk", "normal", "control")
    for lane in lanes:
        for _ in range(4):
            io_context.post(ran.append, lane[0], lane=lane)
    io_context.run()
    assert "".join(ran) == "ccnbccnbnbnb"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_queued": {"urgent": 1}}, "names the lane 'urgent'"),
        ({"max_queued": {"bulk": 0}}, r"max_queued\['bulk'\]=0"),
        ({"lane_weights": {"normal": 0}}, r"lane_weights\['normal'\]=0"),
        ({"max_delayed": 0}, "max_delayed=0"),
    ],
)
def test_a_bound_that_can_not_work_is_an_error_that_names_it(
    make: Callable[..., atoll.IoContext], option: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**option)


def test_what_a_handler_posts_inherits_its_lane(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(lane_weights={"control": 1, "normal": 1, "bulk": 1})
    ran: list[str] = []

    def urgent() -> None:
        io_context.post(ran.append, "inherited")
        io_context.post(ran.append, "normal", lane="normal")
        io_context.post(ran.append, "last, as bulk", lane="bulk")

    io_context.post(urgent, lane="control")
    for _ in range(3):
        io_context.post(ran.append, "before", lane="normal")
    io_context.run()
    assert ran == ["before", "inherited", "before", "last, as bulk", "before", "normal"]


def test_a_later_step_of_a_coroutine_posts_in_its_lane_and_plain_callbacks_in_the_normal_one(
    make: Callable[..., atoll.IoContext],
) -> None:
    io_context = make(max_queued={"bulk": 2, "normal": 1_000})
    refused: list[str] = []

    def post_three(where: str) -> None:
        try:
            for _ in range(3):
                io_context.post(lambda: None)
        except MailboxFull as full:
            refused.append(f"{where}: {full}")

    async def slow() -> None:
        await asyncio.sleep(0)
        post_three("step")
        asyncio.get_running_loop().call_soon(post_three, "callback")
        await asyncio.sleep(0.001)

    io_context.post(slow, lane="bulk")
    io_context.run()
    assert [text.partition(":")[0] for text in refused] == ["step"]


def test_a_post_to_another_loop_inherits_the_lane_too(make: Callable[..., atoll.IoContext]) -> None:
    here, there = make("here"), make("there", max_queued={"bulk": 1})
    refused: list[bool] = []

    def post_two() -> None:
        there.post(lambda: None)
        try:
            there.post(lambda: None)
        except MailboxFull:
            refused.append(True)

    here.post(post_two, lane="bulk")
    here.run()
    assert refused == [True]
