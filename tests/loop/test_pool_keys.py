"""`IoContextPool.get(key)`: one key is never on two loops, whatever the key."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

import atoll

pytest.importorskip("hypothesis", reason="has no wheel for this Python")

from hypothesis import example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator


@pytest.fixture(scope="module")
def pool() -> Iterator[atoll.IoContextPool]:
    """A pool for tests that only ask which loop a key has."""
    with atoll.IoContextPool(7, "workers") as pool:
        yield pool


whole_numbers = st.integers() | st.integers(-3, 3) | st.sampled_from([2**61 - 1, 2**61, -(2**61), 2**1023, -(2**1023)])


@settings(database=None, deadline=None)
@given(whole_numbers)
@example(-1)
@example(2**61)
def test_equal_keys_have_the_same_loop_whatever_their_types(pool: atoll.IoContextPool, number: int) -> None:
    same: list[Hashable] = [number, Decimal(number), Fraction(number)]
    with_float = float(number) if abs(number) < 2**1024 - 2**970 else None
    if with_float == number:
        same += [with_float, complex(with_float, 0.0)]
    loops = {pool.get(key).name for key in same}
    assert loops == {f"workers-{number % 7}"}


@settings(database=None, deadline=None)
@given(
    st.text()
    | st.binary()
    | st.tuples(st.text(), st.integers())
    | st.floats()
    | st.decimals(allow_nan=False)
    | st.complex_numbers()
)
def test_a_key_has_one_loop_for_good(pool: atoll.IoContextPool, key: Hashable) -> None:
    assert pool.get(key) is pool.get(key)
