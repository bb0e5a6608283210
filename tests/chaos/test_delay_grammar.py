"""What `ATOLL_TESTING_DELAY_US` may say, and how a mistake in it is shown."""

from __future__ import annotations

import copy
import pickle

import pytest

pytest.importorskip("hypothesis", reason="has no wheel for this Python")

from hypothesis import given
from hypothesis import strategies as st

from atoll.chaos import DelayInjector, DelayRule
from atoll.errors import AtollError, ChaosConfigurationError

HOUR = 3_600_000_000

names = (
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters=",=*"), min_size=1)
    .map(str.strip)
    .filter(lambda name: name and name.isprintable())
)
bounds = st.tuples(st.integers(0, HOUR), st.integers(0, HOUR)).map(lambda pair: (min(pair), max(pair)))
spaces = st.sampled_from(["", " ", "  ", "\t"])


def rules_of(injector: DelayInjector) -> list[tuple[str, int, int]]:
    return injector.in_microseconds


def mistake(text: str) -> ChaosConfigurationError:
    with pytest.raises(ChaosConfigurationError) as raised:
        DelayInjector.parse(text, seed=1)
    return raised.value


def test_the_articles_example_means_what_the_article_says() -> None:
    injector = DelayInjector.parse("Heartbeat=1000:2000,ObjectPull=50000:100000,*=0:100", seed=7)
    assert injector.rules == (
        DelayRule("Heartbeat", 0.001, 0.002),
        DelayRule("ObjectPull", 0.05, 0.1),
        DelayRule("*", 0.0, 0.0001),
    )
    assert injector.seed == 7


@given(st.dictionaries(names | st.just("*"), bounds, min_size=1), st.integers(0, 2**64 - 1), st.data())
def test_what_is_written_is_read_and_what_is_read_is_written(
    wanted: dict[str, tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    def spaced(text: str) -> str:
        return f"{data.draw(spaces)}{text}{data.draw(spaces)}"

    text = ",".join(f"{spaced(name)}={spaced(str(low))}:{spaced(str(high))}" for name, (low, high) in wanted.items())
    injector = DelayInjector.parse(text, seed=seed)
    assert rules_of(injector) == [(name, low, high) for name, (low, high) in wanted.items()]
    assert DelayInjector.parse(str(injector), seed=seed) == injector
    assert DelayInjector(injector.rules, seed) == injector


@given(st.text(st.sampled_from("ab=:,*0123456789 -.ms")) | st.text())
def test_every_malformed_text_names_a_column_and_points_at_it(text: str) -> None:
    try:
        DelayInjector.parse(text, seed=1)
    except ChaosConfigurationError as error:
        check_that_it_points(error, text)


def check_that_it_points(error: ChaosConfigurationError, text: str) -> None:
    assert error.column is not None
    assert 1 <= error.column <= len(text) + 1
    assert error.entry is not None
    assert error.entry in text
    headline, shown, carets, remedy = str(error).split("\n")
    assert f", column {error.column}: " in headline
    assert remedy.startswith(("Write ", "Remove ", "Keep ", "Say ", "Is ", "The unit "))
    at = carets.index("^")
    assert set(carets[:at]) <= {" "}
    if error.column <= len(text):
        pointed_at = text[error.column - 1]
        assert shown[at] == (pointed_at if pointed_at.isprintable() else " ")
    else:
        assert at == len(shown)


@pytest.mark.parametrize(
    ("text", "entry", "column", "problem", "remedy"),
    [
        ("", "", 1, "the entry is empty", "leave the setting out"),
        ("a=1:2,", "", 7, "the entry is empty", "Remove the comma"),
        ("a=1:2, ,b=1:2", "", 7, "the entry is empty", "Remove the comma"),
        ("Heartbeat", "Heartbeat", 10, "the '='", "Write Heartbeat=1000:2000."),
        ("Heartbeat1000:2000", "Heartbeat1000:2000", 19, "the '='", "Write Heartbeat=1000:2000."),
        ("1000:2000", "1000:2000", 10, "the '='", "Write *=1000:2000."),
        ("=1:2", "=1:2", 1, "the name before the '=' is missing", "Write *=1000:2000."),
        ("a=1", "a=1", 4, "the ':' between minimum and maximum is missing", "Write a=1000:2000."),
        ("a=:2", "a=:2", 3, "the minimum is missing", "Write a=1000:2000."),
        ("a=1:", "a=1:", 5, "the maximum is missing", "Write a=1000:2000."),
        ("a=1:2:3", "a=1:2:3", 6, "a third number", "Is a comma missing?"),
        ("a=1:2 b=3:4", "a=1:2 b=3:4", 10, "a third number", "Is a comma missing?"),
        ("a=1:2,b=x:4", "b=x:4", 9, "the minimum 'x' is not a whole number", "Write b=1000:2000."),
        ("a=1:1.5", "a=1:1.5", 5, "the maximum '1.5' is not a whole number", "Write a=1000:2000."),
        ("a=1:+5", "a=1:+5", 5, "the maximum '+5' is not a whole number", "Write a=1000:2000."),
        ("a=1:٣", "a=1:٣", 5, "the maximum '٣' is not a whole number", "Write a=1000:2000."),
        ("a=1:1_000", "a=1:1_000", 5, "the maximum '1_000' is not a whole number", "Write a=1000:2000."),
        ("a=1.5ms:2ms", "a=1.5ms:2ms", 3, "the minimum '1.5ms' has a unit", "Write 1500 for 1.5ms."),
        ("a=-5:1", "a=-5:1", 3, "the minimum '-5' is negative", "Write 0 for no delay."),
        ("a=5:1", "a=5:1", 3, "the minimum 5 is above the maximum 1", "Write a=1:5."),
        (f"a=0:{HOUR + 1}", f"a=0:{HOUR + 1}", 5, "is above 3600000000, which is an hour", "1 ms is 1000"),
        ("a=0:" + "9" * 5000, "a=0:" + "9" * 5000, 5, "which is an hour", "1 ms is 1000"),
        ("a=1:2,b=1:2,a=3:4", "a=3:4", 13, "'a' has a rule already, in entry 1", "Keep one of the two."),
        ("Heart*=1:2", "Heart*=1:2", 1, "'Heart*' has a '*' in it", "Write the name in full, or *=1000:2000."),
        ("a\x00b=1:2", "a\x00b=1:2", 1, "can't be printed", "Write the name anew."),
        ("a\udc80=1:2", "a\udc80=1:2", 1, "can't be printed", "Write the name anew."),
    ],
)
def test_each_mistake_has_its_own_message_with_its_own_remedy(
    text: str, entry: str, column: int, problem: str, remedy: str
) -> None:
    error = mistake(text)
    assert (error.entry, error.column) == (entry, column)
    headline, _, rest = str(error).partition("\n")
    assert problem in headline
    assert remedy in rest


def test_a_message_shows_the_entry_the_column_and_a_right_one() -> None:
    assert str(mistake("Heartbeat=1000:2000,ObjectPull=50ms:100000")) == (
        "DelayInjector.parse, entry 2, 'ObjectPull=50ms:100000', column 32: the minimum '50ms' has a unit; "
        "all are in microseconds\n"
        "    Heartbeat=1000:2000,ObjectPull=50ms:100000\n"
        "                                   ^^^^\n"
        "Write 50000 for 50ms. The form is name=minimum:maximum,name=minimum:maximum,... in microseconds; "
        "the name * stands for all others."
    )


def test_of_a_long_text_the_part_with_the_mistake_is_shown() -> None:
    text = ",".join(f"handler{number}=1:2" for number in range(1000)) + ",last=1:x,more=" + "5" * 1000
    error = mistake(text)
    assert len(str(error)) < 600
    _, shown, carets, _ = str(error).split("\n")
    assert shown[carets.index("^")] == "x"
    assert error.column == text.index("x") + 1


def test_leading_zeros_are_no_mistake_and_an_hour_is_allowed() -> None:
    assert rules_of(DelayInjector.parse(f"a=000:0{HOUR}", seed=1)) == [("a", 0, HOUR)]


def test_the_error_is_a_value_error_and_one_of_atolls() -> None:
    error = mistake("x")
    assert isinstance(error, ValueError)
    assert isinstance(error, AtollError)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(again), again.column, again.entry) == (str(error), error.column, error.entry)


# ------------------------------------------------------------------------------------------------------ made in code


def test_a_rule_from_code_is_as_exact_as_one_that_was_written() -> None:
    assert DelayRule("a", 0.1 + 0.2, 0.3 + 1e-9) == DelayRule("a", 0.3, 0.3)
    assert str(DelayRule(" a ", 0.0015, 0.25)) == "a=1500:250000"


@pytest.mark.parametrize(
    ("pattern", "minimum", "maximum", "problem"),
    [
        ("a", 2.0, 1.0, "above the maximum"),
        ("a", -1.0, 1.0, "is negative"),
        ("a", 0.0, 3601.0, "an hour"),
        ("a", float("nan"), 1.0, "minimum=nan"),
        ("a", 0.0, float("inf"), "maximum=inf"),
        ("", 0.0, 1.0, "the name before the '=' is missing"),
        ("Heart*", 0.0, 1.0, "stands alone"),
        ("a,b", 0.0, 1.0, "the name 'a,b' has a ',' or a '='"),
        ("a=b", 0.0, 1.0, "the name 'a=b' has a ',' or a '='"),
    ],
)
def test_a_rule_from_code_is_checked_as_well(pattern: str, minimum: float, maximum: float, problem: str) -> None:
    with pytest.raises(ChaosConfigurationError, match=problem.replace("*", r"\*")):
        DelayRule(pattern, minimum, maximum)


def test_an_injector_from_code_is_checked_as_well() -> None:
    rule = DelayRule("a", 0.0, 1.0)
    with pytest.raises(ChaosConfigurationError, match="empty"):
        DelayInjector((), 1)
    with pytest.raises(ChaosConfigurationError, match="has a rule already"):
        DelayInjector((rule, rule), 1)


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.5, "1"])
def test_a_seed_is_a_whole_number_of_64_bits(seed: int) -> None:
    with pytest.raises(ChaosConfigurationError, match="is not a whole number from 0 to 18446744073709551615"):
        DelayInjector.parse("a=1:2", seed=seed)


def test_an_injector_is_a_value() -> None:
    injector = DelayInjector.parse("a=1:2,*=3:4", seed=5)
    assert injector == DelayInjector.parse(" a = 1 : 2 , * = 3 : 4 ", seed=5)
    assert injector != DelayInjector.parse("a=1:2,*=3:4", seed=6)
    assert {injector: 1}[copy.deepcopy(injector)] == 1
    assert pickle.loads(pickle.dumps(injector)) == injector  # noqa: S301 - our own
    with pytest.raises(AttributeError):
        injector.seed = 3  # type: ignore[misc]
