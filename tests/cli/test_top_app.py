"""The live view of `atoll top`, driven as a person would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from textual.color import Color
from textual.widgets import DataTable, Static

from atoll.cli.top._app import COLUMNS, ORDERS, TopApp
from atoll.cli.top._client import Client
from atoll.observe import ObserveEndpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from tests.cli.conftest import Canned, Stuck
    from textual.pilot import Pilot

INTERVAL = 0.2
SIZE = (140, 40)


class Screen:
    """What is on the screen of an app that runs."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def until(self, condition: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not condition():
                    await self.pilot.pause(0.01)
        except TimeoutError:
            raise AssertionError(f"{what} did not come about: {self.texts()}") from None

    @property
    def table(self) -> DataTable[Any]:
        return self.app.query_one("#loops", DataTable)

    def column(self, key: str) -> list[str]:
        return [str(each) for each in self.table.get_column(key)]

    def row(self, loop: str) -> dict[str, str]:
        number = self.column("loop").index(loop)
        return {key: str(cell) for (_, key), cell in zip(COLUMNS, self.table.get_row_at(number), strict=True)}

    def text(self, name: str) -> str:
        return str(self.app.query_one(f"#{name}", Static).content)

    def texts(self) -> dict[str, str]:
        return {name: self.text(name) for name in ("title", "banner", "nothing", "about", "stall")}

    def shows(self, name: str) -> bool:
        return bool(self.app.query_one(f"#{name}").display)

    async def select(self, loop: str) -> None:
        """Moves the cursor there, by the arrows."""
        await self.until(lambda: loop in self.column("loop"), "the loop")
        way = self.column("loop").index(loop) - self.table.cursor_row
        for _ in range(abs(way)):
            await self.pilot.press("down" if way > 0 else "up")
        await self.until(lambda: self.text("about").startswith(loop), "its details")


def look(address: str, script: Callable[[Screen], Awaitable[None]], size: tuple[int, int] = SIZE) -> TopApp:
    """Runs the app on a screen of that size while `script` drives it."""

    async def run() -> TopApp:
        app = TopApp(Client(address), INTERVAL)
        async with app.run_test(size=size) as pilot:
            await script(Screen(app, pilot))
        return app

    return asyncio.run(run())


def test_the_loops_are_listed_with_their_numbers(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    async def script(screen: Screen) -> None:
        await screen.until(lambda: "free" in screen.column("loop"), "the loops")
        row = screen.row("free")
        assert (row["state"], row["queued"], row["delayed"], row["running"]) == ("idle", "0/0/0", "0", "–")
        assert row["busy"].endswith(" %")
        assert screen.text("title").startswith("process ")
        assert not screen.shows("banner")
        await screen.until(lambda: screen.row("free")["rate"] == "0", "a second answer")
        loops.free.post(print, name="later", delay=3600.0)
        await screen.until(lambda: screen.row("free")["delayed"] == "1", "another number")

    look(endpoint.address, script)


def test_a_stuck_loop_is_shown_with_its_handler_and_stack_as_long_as_it_is_stuck(
    endpoint: ObserveEndpoint, loops: Stuck
) -> None:
    async def script(screen: Screen) -> None:
        await screen.select("stuck [b]")
        assert screen.text("stall") == "it has never been stuck"
        loops.block()
        await screen.until(lambda: screen.row("stuck [b]")["state"] == "STUCK", "the state")
        assert screen.row("stuck [b]")["running"] == "Service.Slow[red]"
        await screen.until(lambda: "STUCK in Service.Slow[red] for" in screen.text("stall"), "the stall")
        assert "_block_the_loop" in screen.text("stall")
        assert screen.app.query_one("#details").has_class("stuck")
        loops.let_go()
        await screen.until(lambda: "last stall: Service.Slow[red] took" in screen.text("stall"), "its end")
        assert not screen.app.query_one("#details").has_class("stuck")

    look(endpoint.address, script)


def test_the_worst_loop_is_selected_first(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.block()

    async def script(screen: Screen) -> None:
        await screen.until(lambda: screen.text("about").startswith("stuck [b]"), "the selection")

    look(endpoint.address, script)


def test_the_details_are_of_the_selected_loop(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.free._set_modules(["NodeManager", "KvManager"])

    async def script(screen: Screen) -> None:
        await screen.select("free")
        assert "NodeManager, KvManager" in screen.text("about")
        assert "1 handlers, 0 active, 0 errors" in screen.text("about")
        handlers = screen.app.query_one("#handlers", Static).content
        assert "quick" in [str(cell) for cell in handlers.columns[0].cells]  # type: ignore[union-attr] # it is a rich Table
        await screen.select("stuck [b]")
        assert "modules  –" in screen.text("about")

    look(endpoint.address, script)


def test_the_selection_stays_on_its_loop_through_every_order(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.block()

    async def script(screen: Screen) -> None:
        await screen.select("free")
        construction = screen.column("loop")
        for order in [*list(ORDERS)[1:], "construction"]:
            await screen.pilot.press("s")
            if order != "construction":
                assert screen.text("title").startswith(f"by {order} ")
            found = screen.column("loop")
            if order == "name":
                assert found == sorted(found)
            if order in {"state", "lag", "busy"}:
                assert found[0] == "stuck [b]"
            assert screen.column("loop")[screen.table.cursor_row] == "free"
        assert screen.column("loop") == construction

    look(endpoint.address, script)


def test_a_paused_view_changes_no_more_until_it_goes_on(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    async def script(screen: Screen) -> None:
        await screen.until(lambda: "free" in screen.column("loop"), "the loops")
        await screen.pilot.press("p")
        await screen.until(lambda: not screen.app._asking, "the end of the question under way")
        assert "PAUSED" in screen.text("title")
        loops.free.post(print, name="later", delay=3600.0)
        await screen.pilot.pause(5 * INTERVAL)
        assert screen.row("free")["delayed"] == "0"
        await screen.pilot.press("p")
        await screen.until(lambda: screen.row("free")["delayed"] == "1", "the change")
        assert "PAUSED" not in screen.text("title")

    look(endpoint.address, script)


def test_a_process_that_is_gone_is_said_to_be_and_found_again(tmp_path: Path, loops: Stuck) -> None:
    loops.free.post(print, name="later", delay=3600.0)
    address = f"unix:{tmp_path}/observe.sock"
    endpoint = ObserveEndpoint(address)

    async def script(screen: Screen) -> None:
        await screen.until(lambda: screen.shows("banner"), "the banner")
        assert f"nothing answers at {address}" in screen.text("banner")
        assert f"start the service with ATOLL_OBSERVE={address}" in screen.text("banner")
        endpoint.start()
        await screen.until(lambda: "free" in screen.column("loop"), "the loops")
        assert not screen.shows("banner")
        endpoint.stop()
        await screen.until(lambda: screen.shows("banner"), "the banner")
        assert "what is shown is of" in screen.text("banner")
        assert "start the service" not in screen.text("banner"), "the address was right"
        assert "free" in screen.column("loop"), "the last answer stays"
        endpoint.start()
        await screen.until(lambda: not screen.shows("banner"), "the answer")

    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(endpoint.stop)
        look(address, script)


def test_a_process_without_loops_is_no_trouble(canned: Canned) -> None:
    process = {"pid": 1, "uptime": 2.0, "command": [], "atoll": "0"}
    canned.json(json.dumps({"version": 1, "at": 0.0, "process": process, "loops": [], "stalls": []}))

    async def script(screen: Screen) -> None:
        await screen.until(lambda: "The process has no loops." in screen.text("nothing"), "the answer")
        await screen.pilot.press("s", "down", "up", "enter", "p", "p", "t", "tab")
        assert screen.shows("nothing")
        assert not screen.shows("loops")

    look(canned.address, script)


@pytest.mark.parametrize(
    "answer",
    ['{"version": 1, "loops": [{}]}', '{"version": 1, "loops": [7], "process": {"pid": 1}, "stalls": []}', "[", "null"],
)
def test_answers_that_make_no_sense_get_a_banner(canned: Canned, answer: str) -> None:
    canned.json(answer)

    async def script(screen: Screen) -> None:
        await screen.until(lambda: screen.shows("banner"), "the banner")

    look(canned.address, script)


def test_no_size_is_too_small(endpoint: ObserveEndpoint, loops: Stuck) -> None:
    loops.block()

    async def script(screen: Screen) -> None:
        await screen.until(lambda: "free" in screen.column("loop"), "the loops")
        for size in ((1, 1), (20, 5), (300, 3), (5, 80), (0, 0), SIZE):
            await screen.pilot.resize_terminal(*size)
            await screen.pilot.press("down", "s", "right", "up")
            await screen.pilot.pause(2 * INTERVAL)
        assert "free" in screen.column("loop")

    look(endpoint.address, script)


def test_q_quits_at_once_while_an_answer_is_waited_for(canned: Canned) -> None:
    async def script(screen: Screen) -> None:
        await screen.until(canned.asked.is_set, "the question")
        await screen.pilot.press("q")

    assert look(canned.address, script).return_code == 0


def contrast(one: Color, other: Color) -> float:
    """As the Web Content Accessibility Guidelines define it."""

    def luminance(colour: Color) -> float:
        parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("presses", [0, 1])
def test_what_matters_is_legible_on_dark_and_light(endpoint: ObserveEndpoint, loops: Stuck, presses: int) -> None:
    loops.block()

    async def script(screen: Screen) -> None:
        for _ in range(presses):
            await screen.pilot.press("t")
        await screen.until(lambda: screen.shows("loops"), "the loops")
        assert screen.app.current_theme.dark == (not presses)
        background = screen.table.background_colors[1]
        for word in ("bad", "warning", "good"):
            colour = Color.parse(screen.app._styles[word].removeprefix("bold "))
            assert contrast(colour, background) > 4.5, word

    look(endpoint.address, script)
