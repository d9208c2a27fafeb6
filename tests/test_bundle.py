"""Compiled code sees the arrays of a bundle that Python made, and those alone."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from numba.core.errors import TypingError

from mpnet.jit.bundle import bundle, make_table
from mpnet.jit.compile import JIT, compiled

ITEM = np.dtype([("number", "i8"), ("other", "i8")])


@bundle
class Pair(NamedTuple):
    items: Any
    words: Any
    table: Any


def make_pair() -> Pair:
    members = (np.zeros(3, ITEM).view(np.recarray), np.arange(5))
    return Pair(*members, make_table(members))


@compiled
def add_up(pair: Any, place: int) -> int:
    _count(pair, place)
    return sum_words(pair) + len(pair.items)


@compiled
def _count(pair: Any, place: int) -> None:
    pair.items[place].number += 1


@compiled
def sum_words(pair: Any) -> int:
    total = 0
    for word in pair.words:
        total += word
    return int(total)


@compiled
def unknown(pair: Any) -> int:
    return int(pair.nothing[0])


def test_compiled_code_works_on_the_arrays_themselves() -> None:
    one, other = make_pair(), make_pair()
    assert add_up(one, 2) == add_up(one, 2) == 0 + 1 + 2 + 3 + 4 + 3
    assert add_up(other, 0) == 13
    assert one.items.number.tolist() == [0, 0, 2]
    assert other.items.number.tolist() == [1, 0, 0]


@pytest.mark.compiled
@pytest.mark.skipif(not JIT, reason="interpreted, it is a named tuple")
def test_what_is_not_in_it_does_not_compile() -> None:
    with pytest.raises(TypingError, match="nothing"):
        unknown(make_pair())
