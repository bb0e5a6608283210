"""The live view: a full screen that asks again and again, and stays when there is no answer.

Everything here runs on Textual's loop but the question itself, which a worker thread asks, one at a time.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Static

from atoll.cli.top import _render as render
from atoll.cli.top._client import Unavailable
from atoll.cli.top._snapshot import State, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets.data_table import RowKey

    from atoll.cli.top._client import Client
    from atoll.cli.top._snapshot import Row, Top

COLUMNS = (
    ("loop", "loop"),
    ("state", "state"),
    ("lag", "lag"),
    ("running", "running"),
    ("for", "for"),
    ("cpu", "cpu"),
    ("busy", "busy"),
    ("held up", "held up"),
    ("c/n/b", "queued"),
    ("per s", "rate"),
    ("stalls", "stalls"),
    ("delayed", "delayed"),
)
LEFT = {"loop", "state", "running"}

# By what the loops are sorted; the first is the order of their construction.
ORDERS: dict[str, Callable[[Row], object]] = {
    "construction": lambda _: 0,
    "state": lambda row: (row.state, -(row.cpu or 0.0)),
    "lag": lambda row: -(row.lag or 0.0),
    "busy": lambda row: -row.busy,
    "queued": lambda row: -sum(row.loop["queued"].values()),
    "name": lambda row: row.loop["name"],
}

# Legible on the tables of Textual's dark and light themes, whose own colours for text are too pale for some.
ON_DARK: Mapping[str, str] = {"bad": "bold #ff8a80", "warning": "#ffca70", "good": "#8bd49c", "quiet": "dim"}
ON_LIGHT: Mapping[str, str] = {"bad": "bold #9b0016", "warning": "#6b4200", "good": "#0d5425", "quiet": "dim"}

_WIDEST_NAME = 40


class TopApp(App[None]):
    """`atoll top` as a full screen.

    Args:
        client: Asks the process.
        interval: Seconds between two answers.
    """

    TITLE = "atoll top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("s", "sort", "sort"),
        Binding("p", "pause", "pause"),
        Binding("t", "theme", "light/dark"),
        Binding("tab", "app.focus_next", "scroll the stack", show=False),
    ]
    CSS = """
    #title { height: 1; padding: 0 1; background: $panel; color: $foreground; }
    #banner { height: auto; max-height: 4; padding: 0 1; display: none; }
    #banner { background: $error; color: $text; text-style: bold; }
    #banner.gone { display: block; }
    #loops { height: auto; max-height: 50%; min-height: 3; }
    #nothing { height: auto; padding: 1 2; color: $text-muted; display: none; }
    #details { height: 1fr; min-height: 3; padding: 0 1; border-top: solid $primary; }
    #details:focus { border-top: heavy $primary; }
    #details.stuck { border-top: heavy $error; }
    #about, #handlers, #stall { height: auto; }
    #handlers { margin: 1 0; }
    """

    def __init__(self, client: Client, interval: float) -> None:
        super().__init__()
        self._client = client
        self._interval = interval
        self._order = "construction"
        self._paused = False
        self._asking = False
        self._now: Top | None = None
        self._rows: dict[str, Row] = {}
        self._selected: str | None = None
        self._answered: datetime | None = None

    def compose(self) -> ComposeResult:
        """The parts of the screen, from top to bottom."""
        yield Static(id="title")
        yield Static(id="banner")
        yield DataTable[Text](id="loops", cursor_type="row")
        yield Static(id="nothing")
        with VerticalScroll(id="details"):
            yield Static(id="about")
            yield Static(id="handlers")
            yield Static(id="stall")
        yield Footer()

    def on_mount(self) -> None:
        """Asks for the first time, and from now on."""
        table = self._table
        for heading, key in COLUMNS:
            table.add_column(Text(heading, justify="left" if key in LEFT else "right"), key=key)
        table.focus()
        self._show_title()
        self._show_nothing("waiting for the first answer")
        self.set_interval(self._interval, self._ask)
        self._ask()

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if not (self._asking or self._paused):
            self._asking = True
            self.run_worker(self._answer(), exit_on_error=True)

    async def _answer(self) -> None:
        try:
            top = await asyncio.to_thread(self._client.top)
        except Unavailable as error:
            # Once it has answered, the address was right.
            self._show_answer(error.what if self._answered else str(error))
        else:
            self._show_answer(top)
        finally:
            self._asking = False

    def _show_answer(self, top: Top | str) -> None:
        """Shows an answer, or why there is none."""
        if not self.is_running:
            return  # it has ended meanwhile, and its screen is gone
        if isinstance(top, str):
            self._show_banner(top)
            return
        try:
            found = rows(top, self._now)
        except (KeyError, TypeError, AttributeError):
            self._show_banner(f"{self._client.address} left something out that this atoll needs to know")
            return
        self._now = top
        self._answered = datetime.now().astimezone()
        self._show_banner(None)
        self._rows = {row.key: row for row in found}
        self._show()

    # -- showing -------------------------------------------------------------------------------------------------------

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#loops", DataTable)

    @property
    def _styles(self) -> Mapping[str, str]:
        return ON_DARK if self.current_theme.dark else ON_LIGHT

    def _show(self) -> None:
        """Shows the last answer."""
        self._show_title()
        found = sorted(self._rows.values(), key=ORDERS[self._order])  # type: ignore[arg-type] # each key compares with its own
        if not found:
            self._table.clear()
            self._show_nothing("The process has no loops.")
            return
        self._table.display = self.query_one("#details").display = True
        self.query_one("#nothing").display = False
        self._show_loops(found)
        self._show_details()

    def _show_title(self) -> None:
        text = Text(no_wrap=True, overflow="ellipsis")
        if self._paused:
            text.append(" PAUSED ", f"reverse {self._styles['warning']}").append(" ")
        if self._order != "construction":
            text.append(f"by {self._order}", "italic").append("  ")
        if self._now is None:
            text.append(f"{self._client.address}")
        else:
            text.append(render.title(self._now["process"], self._client.address))
        self.query_one("#title", Static).update(text)

    def _show_nothing(self, why: str) -> None:
        self._table.display = self.query_one("#details").display = False
        nothing = self.query_one("#nothing", Static)
        nothing.update(Text(why))
        nothing.display = True

    def _show_banner(self, why: str | None) -> None:
        banner = self.query_one("#banner", Static)
        banner.set_class(why is not None, "gone")
        if why is None:
            return
        seen = f"what is shown is of {self._answered:%H:%M:%S}; " if self._answered else ""
        banner.update(Text(f"{render.clean(why)}\n{seen}asking again every {self._interval:g} s"))

    def _show_loops(self, found: list[Row]) -> None:
        table = self._table
        keys = [row.key for row in found]
        if [row.key.value for row in table.ordered_rows] == keys:
            for row in found:
                for (_, column), cell in zip(COLUMNS, self._cells(row), strict=True):
                    table.update_cell(row.key, column, cell, update_width=True)
            return
        selected = self._selected
        with self.prevent(DataTable.RowHighlighted):
            table.clear()
            for row in found:
                table.add_row(*self._cells(row), key=row.key)
            if selected not in self._rows:
                # The one that somebody who calls this wants to see.
                selected = min(found, key=ORDERS["state"]).key  # type: ignore[arg-type] # as above
            self._selected = selected
            table.move_cursor(row=keys.index(self._selected))

    def _cells(self, row: Row) -> list[Text]:
        loop, styles = row.loop, self._styles
        running, health = loop["running"], loop["health"]
        stuck = styles["bad"] if row.state == State.STUCK else ""

        def right(text: str, style: str = "") -> Text:
            return Text(text, style, justify="right")

        def name(text: str, style: str = "") -> Text:
            cell = Text(render.clean(text), style)
            cell.truncate(_WIDEST_NAME, overflow="ellipsis")
            return cell

        return [
            name(loop["name"], "bold"),
            render.state(row, styles),
            right(render.duration(row.lag)),
            name(running["handler"] if running else "–", stuck),
            right(render.duration(running["age"] if running else None), stuck),
            right(render.cpu(row)),
            right(render.percent(row.busy)),
            right(render.percent(row.held_up)),
            right(render.queued(row)),
            right("–" if row.rate is None else f"{row.rate:,.0f}"),
            right(f"{health['stalls']:,}" if health else "–"),
            right(f"{loop['delayed']:,}"),
        ]

    def _show_details(self) -> None:
        row = self._rows.get(self._selected or "")
        if row is None or self._now is None:
            return
        styles, loop = self._styles, row.loop
        about = Text(render.clean(loop["name"]), "bold")
        about.append("  ").append(render.state(row, styles))
        about.append("\nmodules  ", "bold").append(render.modules(row), "not bold")
        about.append(f"\n{render.headline(row)}", "not bold")
        self.query_one("#about", Static).update(about)
        self.query_one("#handlers", Static).update(
            render.handlers(loop["handlers"], loop["handlers_left_out"], styles) if loop["handlers"] else Text("")
        )
        stall = row.last_stall
        stuck = stall is not None and not stall["over"]
        self.query_one("#details").set_class(stuck or row.state == State.STUCK, "stuck")
        if stall is None:
            shown = Text("it has never been stuck", styles["quiet"]) if loop["health"] else Text("")
        else:
            title = render.stall_title(stall, row, self._now["at"])
            shown = Text(title, styles["bad"] if stuck else "bold")
            shown.append("\n").append(render.stack(stall, styles))
        self.query_one("#stall", Static).update(shown)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another loop has been chosen."""
        key: RowKey | None = event.row_key  # whatever Textual says: none when an arrow is pressed in an empty table
        if key is not None and key.value in self._rows:
            self._selected = key.value
            self._show_details()

    def action_sort(self) -> None:
        """Sorts by the next of `ORDERS`."""
        names = list(ORDERS)
        self._order = names[(names.index(self._order) + 1) % len(names)]
        self._show_again()

    def action_pause(self) -> None:
        """Asks no more, or again."""
        self._paused = not self._paused
        self._show_title()
        self._ask()

    def action_theme(self) -> None:
        """Changes between dark and light."""
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        self.call_after_refresh(self._show_again)

    async def action_quit(self) -> None:
        """Ends, also while an answer is being waited for."""
        self._client.cancel()
        self.exit()

    def _show_again(self) -> None:
        if self._now is None:
            self._show_title()
        else:
            self._show()
