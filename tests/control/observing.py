"""What the tests of health checks and metrics share: a running server, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING

from prometheus_client import parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.testing.server_process import ServerProcess

PATIENCE = 60.0
OBSERVED = ("--observe", "127.0.0.1:0")


def get(address: str, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of Prometheus' text by name and values of labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


class Observed:
    """A server started with `OBSERVED`."""

    def __init__(self, server: ServerProcess) -> None:
        self.observe: str = server.wait_for("observed")["address"]

    def conditions(self) -> dict[str, tuple[bool, str]]:
        """What /readyz tells."""
        _, body = get(self.observe, "/readyz?format=json")
        return {told["name"]: (told["ok"], told["reason"]) for told in json.loads(body)["conditions"]}

    def numbers(self) -> dict[str, dict[tuple[str, ...], float]]:
        """All samples, the control plane's without their prefix."""
        status, text = get(self.observe, "/metrics")
        assert status == 200
        return {name.removeprefix("atoll_control_"): samples for name, samples in parsed(text).items()}

    def wait_for_numbers(self, condition: Callable[[dict[str, dict[tuple[str, ...], float]]], bool]) -> None:
        """Scrapes until the numbers are so."""
        wait_until(lambda: condition(self.numbers()))


def wait_until(condition: Callable[[], bool]) -> None:
    """Asks until it is so."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it has not come to pass"
        time.sleep(0.05)
