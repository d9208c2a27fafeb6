"""What `make test-matrix` tries, and how it writes what came of it."""

import pytest

from mpnet.guest import parts
from tests.matrix.cells import cells
from tests.matrix.table import PAGE, Row, read, summary, write


def test_every_part_that_can_come_from_elsewhere_is_tried_from_each_release() -> None:
    tried = {(name, release) for cell in cells() for name, release in cell.parts}
    assert tried == {(name, release) for name in parts.ELSEWHERE for release in ("", "trixie", "testing")}
    both = {cell.variable for cell in cells() if len(cell.parts) == 2}
    assert len(both) == 9, "every QEMU has every kernel"
    for cell in cells():
        assert parts.chosen(cell.variable) == {name: release for name, release in cell.parts if release}
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names)


def test_the_two_commands_are_tried_in_each_release() -> None:
    found = {(cell.root, cell.words) for cell in cells() if cell.root}
    assert found == {
        (root, f"make {each}") for root in ("trixie", "testing") for each in ("unit", "demo", "test")
    }


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (0, "====== 21 passed, 3 deselected in 80.11s ======", "21 passed"),
        (1, "=== 2 failed, 19 passed, 1 error in 80.11s ===", "**fails**: 2 failed, 19 passed, 1 error"),
        (0, "everything worked, in 40 s", "works"),
        (2, "make: *** no rule", "**fails**: status 2"),
    ],
)
def test_a_result_is_a_few_words(status: int, said: str, expected: str) -> None:
    assert summary(status, said) == expected


def test_rows_take_the_place_of_those_of_the_same_cell_and_the_rest_of_the_page_stays() -> None:
    page = "# A\n\n<!-- make test-matrix writes this -->\n| a |\n|---|\n<!-- to here -->\n\nB\n"
    old = Row("trixie, Python 3.13.5", "qemu 10.0.1+ds-1", "pytest a.py", "1 passed")
    other = Row("trixie, Python 3.13.5", "qemu 11.1.2+ds-3", "pytest a.py", "**fails**: 1 failed")
    new = Row("trixie, Python 3.13.6", "qemu 10.0.2+ds-1", "pytest a.py", "2 passed")
    once = write(page, [old, other])
    assert read(once) == [old, other]
    twice = write(once, [new])
    assert read(twice) == [new, other]
    assert (twice[:5], twice[-2:]) == ("# A\n\n", "B\n")
    assert write(twice, []) == twice


def test_the_page_has_the_place() -> None:
    text = PAGE.read_text()
    assert write(text, read(text)) == text
