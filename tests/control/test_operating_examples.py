"""`examples/operating` and the runbook: all of it is about what a real server has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.observing import OBSERVED, Observed, get

from atoll_control.cli.configuration import resolve
from atoll_control.cli.serve_options import ServeOptions, server_settings

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples" / "operating"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
METRIC = re.compile(r"\b(?:atoll_(?!control\b)\w+|io_context_\w+)\b")
# What Prometheus says itself.
PROMETHEUS_OWN = {"up"}


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text()


def alerts() -> dict[str, dict[str, str]]:
    """The fields of each alert, by its name. Their values stand on one line each, which is all that we write."""
    found: dict[str, dict[str, str]] = {}
    for block in text_of("alerts.yaml").split("      - alert: ")[1:]:
        name, *lines = block.splitlines()
        pairs = [line.strip().partition(": ") for line in lines]
        found[name] = {key: value for key, separator, value in pairs if separator}
    return found


def board() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(text_of("dashboard.json"))
    return told


def sections() -> dict[str, str]:
    """The runbook's sections by their headings."""
    parts = re.split(r"^## (.+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def exported(serve: Callable[..., Any]) -> set[str]:
    """The names of all samples that a server may export."""
    text = get(Observed(serve(*OBSERVED)).observe, "/metrics")[1]
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, flags=re.MULTILINE):
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else set()
        names.add(name)
    return names


def metrics_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression, without those of its labels."""
    without_labels = re.sub(r"\{[^}]*\}", "", expression)
    return set(METRIC.findall(without_labels))


def test_every_metric_of_the_alerts_is_exported(exported: set[str]) -> None:
    for name, alert in alerts().items():
        metrics = metrics_in(alert["expr"])
        assert metrics or "up{" in alert["expr"], name
        assert metrics - PROMETHEUS_OWN <= exported, name


def test_every_metric_of_the_board_is_exported(exported: set[str]) -> None:
    panels = [panel for panel in board()["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [annotation["expr"] for annotation in board()["annotations"]["list"]]
    expressions += [variable["query"]["query"] for variable in board()["templating"]["list"][1:]]
    for expression in expressions:
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= exported, expression


def test_every_metric_of_the_runbook_is_exported(exported: set[str]) -> None:
    named = {name for name in re.findall(r"`(\w+)`", RUNBOOK.read_text()) if METRIC.fullmatch(name)}
    assert named
    assert named <= exported


def test_each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() -> None:
    assert list(sections()) == list(alerts())
    for name, text in sections().items():
        assert len(text.split()) > 30, name


def test_links_within_the_runbook_lead_to_a_section() -> None:
    headings = {name.lower() for name in sections()}
    links = re.findall(r"\(#([\w-]+)\)", RUNBOOK.read_text())
    assert links
    assert set(links) <= headings


def test_each_alert_has_a_severity_and_says_what_it_is_about() -> None:
    for name, alert in alerts().items():
        assert alert["severity"] in {"critical", "warning", "info"}, name
        assert alert["summary"], name
        assert re.fullmatch(r"\d+[smh]", alert.get("for", "0s")), name


def test_the_board_has_a_place_and_a_number_for_each_panel() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_settings_are_accepted() -> None:
    configuration = resolve(ServeOptions, {}, {}, EXAMPLES / "atoll.toml")
    settings = server_settings(configuration)
    assert (settings.data_dir, settings.observe) == (Path("/var/lib/atoll"), "127.0.0.1:9464")


def test_the_settings_of_the_manifest_are_accepted_and_its_ports_are_theirs(tmp_path: Path) -> None:
    manifest = text_of("kubernetes.yaml")
    inline = re.search(r"  atoll.toml: \|\n((?:    .*\n)+)", manifest)
    assert inline is not None
    file = tmp_path / "atoll.toml"
    file.write_text(re.sub(r"^    ", "", inline.group(1), flags=re.MULTILINE))
    settings = server_settings(resolve(ServeOptions, {}, {}, file))
    ports = dict(re.findall(r"- name: (\w+)\n +containerPort: (\d+)", manifest))
    assert ports == {
        name: (address or "").rpartition(":")[2]
        for name, address in (("grpc", settings.listen), ("observe", settings.observe))
    }
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)
    assert grace is not None
    assert int(grace.group(1)) > settings.grace
    probes = re.findall(r"(\w+Probe):\n +httpGet:\n +path: (\S+)\n +port: (\w+)", manifest)
    assert probes == [
        ("livenessProbe", "/livez", "observe"),
        ("readinessProbe", "/readyz", "observe"),
    ]
    assert 'args: ["serve", "--config", "/etc/atoll/atoll.toml"]' in manifest


def command_of_the_unit() -> list[str]:
    found = re.search(r"^ExecStart=(.+)$", text_of("atoll.service"), flags=re.MULTILINE)
    assert found is not None
    return found.group(1).split()


def test_the_unit_calls_a_command_with_flags_that_exist() -> None:
    _, *arguments = command_of_the_unit()
    command, flags = arguments[0], [argument for argument in arguments if argument.startswith("--")]
    helped = subprocess.run(
        [sys.executable, "-m", "atoll_control.cli", command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert flags
    assert all(re.search(rf"{flag}\b", helped.stdout) for flag in flags)


def test_the_unit_gives_the_server_more_time_to_stop_than_its_grace() -> None:
    found = re.search(r"^TimeoutStopSec=(\d+)$", text_of("atoll.service"), flags=re.MULTILINE)
    assert found is not None
    assert int(found.group(1)) > ServeOptions().grace


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "atoll.service"
    # The program is not where operators install it.
    unit.write_text(text_of("atoll.service").replace(command_of_the_unit()[0], sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool on this machine")
def test_prometheus_takes_the_alerts() -> None:
    subprocess.run(["promtool", "check", "rules", str(EXAMPLES / "alerts.yaml")], timeout=60, check=True)
