"""Draws the map of policies as SVG: one card per loop with its modules, legible on light and on dark pages.

Names are set in a monospaced font, whose width is known without asking one. What is too long for a card is shortened,
and whole in its tooltip.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

from atoll.cli._map import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.cli._map import LoopMap, PolicyMap

# Pixels, of which a monospaced character of size 1 takes 0.602 in all usual fonts.
_ADVANCE: Final = 0.602
_MARGIN: Final = 28.0
_GAP: Final = 18.0
_PADDING: Final = 18.0
_NARROWEST: Final = 200.0
_WIDEST: Final = 400.0
_COLUMNS: Final = 3
_HEAD: Final = 30.0
_PILL: Final = 28.0
_PILL_GAP: Final = 8.0
_LINE: Final = 18.0
_TITLE: Final = 62.0

_TITLE_SIZE: Final = 18.0
_SUB_SIZE: Final = 12.0
_NAME_SIZE: Final = 14.0
_MODULE_SIZE: Final = 13.0
_SETTING_SIZE: Final = 11.5

_STYLE: Final = """
    text { font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", \
sans-serif; }
    .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", \
monospace; }
    .page { fill: #f4f7f8; }
    .title { fill: #0f2a33; font-size: 18px; font-weight: 600; }
    .sub { fill: #5b737c; font-size: 12px; }
    .card { fill: #ffffff; stroke: #c9d8dc; stroke-width: 1; }
    .default { fill: none; stroke: #9fb4ba; stroke-width: 1.25; stroke-dasharray: 5 4; }
    .water { fill: none; stroke: #7fc7cf; stroke-width: 3.5; }
    .land { fill: #0e7c86; }
    .ashore { fill: #9fb4ba; }
    .name { fill: #0f2a33; font-size: 14px; font-weight: 600; }
    .pill { fill: #e3f2f3; stroke: #b5dbdf; stroke-width: 1; }
    .module { fill: #0b5058; font-size: 13px; }
    .rule { stroke: #e1eaec; stroke-width: 1; }
    .setting { fill: #5b737c; font-size: 11.5px; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1519; }
      .title, .name { fill: #e6f1f3; }
      .sub, .setting { fill: #93a9b1; }
      .card { fill: #152127; stroke: #2b3d45; }
      .default { stroke: #4d646d; }
      .water { stroke: #2f7d87; }
      .land { fill: #5fd0da; }
      .ashore { fill: #4d646d; }
      .pill { fill: #17343a; stroke: #24535b; }
      .module { fill: #a9e4ea; }
      .rule { stroke: #24343b; }
    }
"""


@dataclass
class _Card:
    """One loop; `name` is None for the default loop."""

    name: str | None
    modules: Sequence[str]
    lines: Sequence[str]

    @property
    def width(self) -> float:
        """What its texts need, within bounds."""
        wanted = [_width(self.name or "default loop", _NAME_SIZE) + 30]
        wanted += [_width(module, _MODULE_SIZE) + 28 for module in self.modules]
        wanted += [_width(line, _SETTING_SIZE) for line in self.lines]
        return min(max(*wanted, _NARROWEST - 2 * _PADDING), _WIDEST - 2 * _PADDING) + 2 * _PADDING

    @property
    def height(self) -> float:
        """What its rows need."""
        lines = len(self.lines) * _LINE + 14 if self.lines else 0.0
        return 2 * _PADDING + _HEAD + len(self.modules) * (_PILL + _PILL_GAP) - _PILL_GAP + lines


@dataclass
class _Drawing:
    """SVG elements."""

    elements: list[str] = field(default_factory=list)

    def add(self, element: str) -> None:
        self.elements.append(f"  {element}")

    def text(self, x: float, y: float, text: str, style: str, size: float, room: float) -> None:
        """A text, shortened to `room` pixels and then whole in its tooltip."""
        shown = _shortened(text, size, room)
        tooltip = "" if shown == text else f"<title>{_escaped(text)}</title>"
        self.add(f'<text class="{style}" x="{x:g}" y="{y:g}">{tooltip}{_escaped(shown)}</text>')


def as_svg(maps: Sequence[PolicyMap]) -> str:
    """The policies, one below the other."""
    drawing = _Drawing()
    top = _MARGIN
    right = 0.0
    for policy in maps:
        cards = [_card(loop) for loop in policy.loops]
        if policy.default:
            cards.append(_Card(None, policy.default, ("the loop that enters the provider",)))
        top, edge = _policy(drawing, policy, cards, top)
        right = max(right, edge)
    width, height = right + _MARGIN, top + _MARGIN - 2 * _GAP
    titles = ", ".join(policy.title for policy in maps)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">\n'
        f"  <title>{_escaped(titles)}: which module lives on which loop</title>\n"
        f"  <style>{_STYLE}  </style>\n"
        f'  <rect class="page" width="{width:g}" height="{height:g}" rx="14"/>\n'
    )
    return head + "\n".join(drawing.elements) + "\n</svg>\n"


def _card(loop: LoopMap) -> _Card:
    return _Card(loop.name, loop.modules, [_said(option, value) for option, value in loop.settings.items()])


def _said(option: str, value: object) -> str:
    """A setting in words."""
    if option == "lag_probe":
        return f"lag probe every {_duration(value)}" if isinstance(value, float) else "no lag probe"
    if option == "stall_threshold":
        return f"stalls reported from {_duration(value)}" if isinstance(value, float) else "no stall reports"
    if option == "cpu_affinity":
        return f"CPU {written(option, value)[1:-1]}"
    if option == "counts_for_health":
        return "does not count for health"
    if option == "checked":
        return "modules do not check their loop"
    return f"{option}={written(option, value)}"


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _policy(drawing: _Drawing, policy: PolicyMap, cards: Sequence[_Card], top: float) -> tuple[float, float]:
    """Draws a title and its cards; returns where the next may begin, and the right edge."""
    columns = min(_COLUMNS, len(cards)) if len(cards) != 4 else 2  # noqa: PLR2004 - two by two rather than three and one
    width = max((card.width for card in cards), default=0.0)
    loops = [_count(len(policy.loops), "dedicated loop")] if policy.loops else []
    loops += ["the default loop"] if policy.default else []
    summary = f"{_count(sum(len(card.modules) for card in cards), 'module')} on {' and '.join(loops) or 'no loops'}"
    texts = max(_width(policy.title, _TITLE_SIZE), _width(summary, _SUB_SIZE))
    right = _MARGIN + max(columns * (width + _GAP) - _GAP, texts)
    drawing.text(_MARGIN, top + 18, policy.title, "title mono", _TITLE_SIZE, right - _MARGIN)
    drawing.text(_MARGIN, top + 40, summary, "sub", _SUB_SIZE, right - _MARGIN)
    top += _TITLE
    for first in range(0, len(cards), max(columns, 1)):
        row = cards[first : first + columns]
        height = max(card.height for card in row)
        for column, card in enumerate(row):
            _draw_card(drawing, card, _MARGIN + column * (width + _GAP), top, width, height)
        top += height + _GAP
    return top + _GAP, right


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _draw_card(drawing: _Drawing, card: _Card, x: float, y: float, width: float, height: float) -> None:
    left, room = x + _PADDING, width - 2 * _PADDING
    style = "default" if card.name is None else "card"
    drawing.add(f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="12"/>')
    middle = y + _PADDING + 8
    if card.name is None:
        drawing.add(f'<circle class="ashore" cx="{left + 9:g}" cy="{middle:g}" r="4"/>')
        drawing.text(left + 26, middle + 5, "default loop", "name", _NAME_SIZE, room - 26)
    else:
        # An atoll: the ring, and an island on it.
        drawing.add(f'<circle class="water" cx="{left + 9:g}" cy="{middle:g}" r="7"/>')
        drawing.add(f'<circle class="land" cx="{left + 14:g}" cy="{middle - 5:g}" r="3.5"/>')
        drawing.text(left + 26, middle + 5, card.name, "name mono", _NAME_SIZE, room - 26)
    row = y + _PADDING + _HEAD
    for module in card.modules:
        drawing.add(
            f'<rect class="pill" x="{left:g}" y="{row:g}" width="{room:g}" height="{_PILL:g}" rx="{_PILL / 2:g}"/>'
        )
        drawing.text(left + 14, row + _PILL / 2 + 4.5, module, "module mono", _MODULE_SIZE, room - 28)
        row += _PILL + _PILL_GAP
    if card.lines:
        row += 6 - _PILL_GAP + 4
        drawing.add(f'<line class="rule" x1="{left:g}" y1="{row:g}" x2="{left + room:g}" y2="{row:g}"/>')
        for line in card.lines:
            row += _LINE
            drawing.text(left, row, line, "setting", _SETTING_SIZE, room)


# ------------------------------------------------------------------------------------------------------------- texts


def _width(text: str, size: float) -> float:
    """How wide `text` is, monospaced; what is not monospaced is narrower."""
    return size * _ADVANCE * sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _shortened(text: str, size: float, room: float) -> str:
    if _width(text, size) <= room:
        return text
    while text and _width(text, size) > room - size * _ADVANCE:
        text = text[:-1]
    return text + "…"


def _escaped(text: str) -> str:
    """For XML, which has no place for most control characters and for halves of surrogate pairs."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", text))
