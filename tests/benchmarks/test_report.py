"""How a run is printed and written."""

import json
from pathlib import Path

from benchmarks.report import render, write_json
from benchmarks.result import Result, Table, times, us
from benchmarks.summary import Figure
from benchmarks.thresholds import Threshold, Verdict


def test_a_table_aligns_text_left_and_numbers_right() -> None:
    table = Table("Title", ("server", "calls/s"), (("a", "1"), ("longer", "1,000")))
    assert render(table).splitlines() == [
        "Title",
        "---------------",
        "server  calls/s",
        "---------------",
        "a             1",
        "longer    1,000",
    ]


def test_latencies_are_microseconds_until_they_are_long() -> None:
    shown = [us(Figure(value, value, value)) for value in (5.816, 375.4, 9999.0, 402_000.0)]
    assert shown == ["5.82 us", "375 us", "9,999 us", "402.0 ms"]


def test_a_ratio_shows_its_spread_and_a_missing_one_a_dash() -> None:
    assert times(Figure(2.0, 1.5, 2.5)) == "2.00x (1.50-2.50)"
    assert times(None) == "-"


def test_the_json_has_machine_figures_notes_and_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "benchmarks.json"
    result = Result(figures={"echo.x": Figure(2.0, 1.0, 3.0)}, notes=["left out y"])
    verdict = Verdict(Threshold(says="x", figure="echo.x", at_least=1), 2.0)
    write_json(file, {"cores": "2"}, {"echo": result}, [verdict])
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "machine": {"cores": "2"},
        "figures": {"echo.x": {"median": 2.0, "low": 1.0, "high": 3.0}},
        "notes": ["left out y"],
        "thresholds": [{"figure": "echo.x", "limit": "at least 1", "value": 2.0, "passed": True}],
    }
