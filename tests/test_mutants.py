"""The tool that tries mutations: what it makes of a source, and that what it knows is still there."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.mutants.known import curated, reason_of
from tests.mutants.mutations import mutations
from tests.mutants.run import NOTICED, ROOT, SURVIVED, every_mutation, report, sample
from tests.mutants.suites import SUITES

SOURCE = '''
def serve(ring, room):
    """Serve: 1 + 1."""
    if ring.place <= room and not ring.broken:
        ring.place = room + 1
        ring.shown = ring.place
        ring.log.info("served", count=1)
    return ring.records[0] & 0xFF
'''


def words(source: str) -> set[str]:
    return {mutation.words() for mutation in mutations("serve.py", source)}


def test_each_kind_of_slip_is_made() -> None:
    assert words(SOURCE) == {
        "<= → <",
        "and → or",
        "not →",
        "ring.place <= room and not ring.broken → True",
        "ring.place <= room and not ring.broken → False",
        "ring.place = room + 1 → pass",
        "+ → -",
        "1 → 2",
        "ring.shown = ring.place → pass",
        "ring.place = room + 1 ring.shown = ring.place → ring.shown = ring.place ring.place = room + 1",
        "& → |",
        "0xFF → 256",
    }


def test_a_slip_changes_its_place_and_nothing_else() -> None:
    for mutation in mutations("serve.py", SOURCE):
        changed = mutation.apply(SOURCE)
        ast.parse(changed)
        assert changed != SOURCE
        end = mutation.begin + len(mutation.was)
        assert changed.startswith(SOURCE[: mutation.begin])
        assert changed.endswith(SOURCE[end:])
        assert SOURCE.splitlines()[mutation.line - 1] in SOURCE[: end + 80]


def test_slips_stand_behind_letters_of_several_bytes() -> None:
    source = 'x = "µs" if a < b else "→"\n'
    assert {mutation.apply(source) for mutation in mutations("x.py", source)} == {source.replace("<", "<=")}


def test_a_sample_is_the_same_for_the_same_seed_and_has_all_curated_ones() -> None:
    first, second, other = (sample(ROOT, 30, seed) for seed in (1, 1, 2))
    assert first == second != other
    for mutation in first:
        source = (ROOT / mutation.file).read_text()
        ast.parse(mutation.apply(source))
        assert mutation.apply(source) != source
    known = curated(ROOT)
    assert len(known) >= 30
    assert first[: len(known)] == other[: len(known)] == known


def test_there_are_tests_for_what_is_mutated() -> None:
    names = {name for suite in SUITES.values() for name in suite}
    missing = {name for name in names if not (ROOT / "tests" / f"{name}.py").exists()}
    assert missing == set()
    files = {mutation.file for mutation in every_mutation(ROOT)}
    assert {Path(file).parent for file in files} >= {
        Path(folder) for folder in ("workers", "control", "mpnet/vhost_user", "mpnet/segment")
    }


def test_what_is_said_to_be_equivalent_is_still_a_mutation() -> None:
    found = {(mutation.file, mutation.words()) for mutation in [*every_mutation(ROOT), *curated(ROOT)]}
    known = tomllib.loads((ROOT / "tests/mutants/equivalent.toml").read_text()).get("mutation", [])
    assert [row for row in known if (row["file"], row["words"]) not in found] == []
    assert all(len(row["reason"]) > 10 for row in known)


@pytest.mark.parametrize(("outcome", "said"), [(NOTICED, "1 noticed, 0"), (SURVIVED, "0 noticed, 0")])
def test_the_report_counts(outcome: str, said: str) -> None:
    row = {"file": "a.py", "line": 1, "kind": "check", "words": "a | b → c", "outcome": outcome, "by": ""}
    assert reason_of(row) == ""
    lines = list(report([row]))
    assert said in lines[0]
    assert lines[-1] == f"| a.py:1 | `a \\| b → c` | check | {outcome} |"
