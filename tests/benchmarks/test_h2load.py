"""What h2load 1.52 prints and logs, as captured, and what the harness makes of it."""

from pathlib import Path

import pytest
from benchmarks.h2load import H2loadError, Shape, Summary, Target, check, parse_log, parse_summary

OUTPUT = """\
starting benchmark...
spawning thread #0: 8 total client(s). 12800 total requests
Application protocol: h2c
progress: 10% done
progress: 100% done

finished in 1.96s, 6530.61 req/s, 935.83KB/s
requests: 12800 total, 12800 started, 12800 done, 12800 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 12800 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.83MB (1916579) total, 38.64KB (39567) headers (space savings 96.24%), 1.10MB (1152000) data
                     min         max         mean         sd        +/- sd
time for request:      296us     34.90ms     19.60ms      1.68ms    93.79%
time for connect:       83us       273us       185us        63us    62.50%
time to 1st byte:     3.21ms     32.07ms     17.86ms     10.10ms    50.00%
req/s           :     808.36      817.37      811.70        4.11    75.00%
"""

REFUSED = """\
starting benchmark...
spawning thread #0: 1 total client(s). 1 total requests
"""

LOG = b"1795258294927854\t200\t11296\n1795258294927855\t200\t11631\n1795258294927900\t-1\t99\n"


def summary(calls: int, data_bytes: int, unsuccessful: int = 0) -> Summary:
    return Summary(calls, unsuccessful, data_bytes, calls_per_second=1.0, mean_us=1.0)


def test_the_summary_gives_calls_reply_bytes_rate_and_mean() -> None:
    parsed = parse_summary(OUTPUT)
    assert (parsed.calls, parsed.unsuccessful, parsed.data_bytes) == (12800, 0, 1_152_000)
    assert parsed.calls_per_second == pytest.approx(6530.61)
    assert parsed.mean_us == pytest.approx(19_600)


def test_failed_and_errored_calls_are_added_up() -> None:
    counts = "12790 succeeded, 7 failed, 3 errored"
    parsed = parse_summary(OUTPUT.replace("12800 succeeded, 0 failed, 0 errored", counts))
    assert (parsed.calls, parsed.unsuccessful) == (12790, 10)


def test_traffic_without_a_unit_is_read_too() -> None:
    assert parse_summary(OUTPUT.replace("1.10MB (1152000) data", "360B (360) data")).data_bytes == 360


@pytest.mark.parametrize(("shown", "expected"), [("95us", 95), ("19.60ms", 19_600), ("1.25s", 1_250_000)])
def test_the_mean_is_read_in_each_of_its_units(shown: str, expected: float) -> None:
    assert parse_summary(OUTPUT.replace("19.60ms", shown)).mean_us == pytest.approx(expected)


def test_output_without_a_summary_is_an_error_that_shows_its_end() -> None:
    with pytest.raises(H2loadError, match="spawning thread #0"):
        parse_summary(REFUSED)


def test_the_log_gives_the_duration_of_each_successful_call() -> None:
    assert parse_log(LOG) == [11296, 11631]


def test_columns_that_later_versions_append_to_the_log_are_ignored() -> None:
    assert parse_log(b"1000\t200\t25\tnew\n") == [25]


def test_an_empty_log_has_no_calls() -> None:
    assert parse_log(b"") == []


def test_as_many_reply_bytes_as_calls_pass() -> None:
    check(summary(10, data_bytes=900), calls=10, reply_bytes=90)


def test_calls_answered_with_a_status_instead_of_a_reply_are_caught() -> None:
    with pytest.raises(H2loadError, match="probably a gRPC status"):
        check(summary(10, data_bytes=0), calls=10, reply_bytes=90)


def test_one_reply_too_few_is_caught() -> None:
    with pytest.raises(H2loadError, match="should have brought 900 reply bytes but brought 810"):
        check(summary(10, data_bytes=810), calls=10, reply_bytes=90)


def test_calls_that_did_not_succeed_are_caught() -> None:
    with pytest.raises(H2loadError, match="9 of 10 calls succeeded, 1 failed"):
        check(summary(9, data_bytes=810, unsuccessful=1), calls=10, reply_bytes=90)


def test_every_connection_gets_the_same_number_of_calls() -> None:
    assert Shape(8, 16).calls_for(2.0, 1001.0) == 8 * 250
    assert Shape(500, 1).calls_for(0.0, 0.0) == 500
    assert Shape(1, 1).calls_for(0.0, 0.0) == 4


def test_a_shape_reads_connections_by_streams() -> None:
    assert str(Shape(8, 16)) == "8x16"


def test_a_target_is_the_unary_echo_on_a_plain_port_unless_said_otherwise() -> None:
    assert Target(5000, Path("body"), 90).url == "http://127.0.0.1:5000/atoll.benchmarks.Echo/Say"
    assert Target(5001, Path("body"), 90, "/a.B/C", "https").url == "https://127.0.0.1:5001/a.B/C"
