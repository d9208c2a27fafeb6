"""Tries mutations: each in a copy of the sources, interpreted, against the tests that should notice it.

``make mutants`` runs this. What was tried is kept in ``build/mutants/results.jsonl`` and not tried again
while the mutated file is the same; the table is ``build/mutants/report.md``.
"""

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants import trials
from tests.mutants.known import curated, reason_of
from tests.mutants.mutations import Mutation, mutations
from tests.mutants.suites import suite_of
from tests.mutants.trials import HUNG, NOTICED, ROOT, SURVIVED

FOLDER = ROOT / "build" / "mutants"
_SOURCES = ("workers", "mpnet/vhost_user", "mpnet/segment", "mpnet/virtio", "control")


def every_mutation(root: Path) -> list[Mutation]:
    """All that can be tried of the sources, in their order."""
    found: list[Mutation] = []
    for folder in _SOURCES:
        for path in sorted((root / folder).glob("*.py")):
            file = str(path.relative_to(root))
            if suite_of(file):
                found += mutations(file, path.read_text())
    return found


def sample(root: Path, count: int, seed: int) -> list[Mutation]:
    """The curated mutations, and so many others by chance: the same ones for the same seed and sources."""
    others = every_mutation(root)
    random.Random(seed).shuffle(others)
    return [*curated(root), *others[:count]]


class Results:
    """What was tried, by key, kept in a file to which each result is added at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a result."""
        self.known[row["key"]] = row
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def left(self, keys: dict[str, Mutation], *, again: bool) -> list[Mutation]:
        """Those that have not been tried; ``again``: nor were noticed."""
        rows = {key: self.known.get(key) for key in keys}
        missed = {key for key, row in rows.items() if row and row["outcome"] == SURVIVED}
        return [one for key, one in keys.items() if rows[key] is None or (again and key in missed)]


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The table: how many there were, and a line for each."""
    for row in rows:
        row["reason"] = reason_of(row) if row["outcome"] == SURVIVED else ""
    counts = Counter("equivalent" if row["reason"] else row["outcome"] for row in rows)
    noticed = counts[NOTICED] + counts[HUNG]
    left = f"{counts['equivalent']} equivalent, {counts[SURVIVED]} not noticed"
    yield f"{sum(counts.values())} mutations: {noticed} noticed, {left}."
    yield ""
    yield "| where | mutation | kind | outcome |"
    yield "|---|---|---|---|"
    for row in rows:
        outcome = row["reason"] or (f"by {row['by']}" if row["by"] else row["outcome"])
        words = row["words"].replace("|", "\\|")
        yield f"| {row['file']}:{row['line']} | `{words}` | {row['kind']} | {outcome} |"


def main() -> None:
    """Try a sample, and say which were not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many beside the curated ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="also those that were not noticed when last tried")
    chosen = parser.parse_args()
    wanted = [one for one in sample(ROOT, chosen.count, chosen.seed) if chosen.only in one.file]
    results = Results(FOLDER / "results.jsonl")
    sources = {one.file: (ROOT / one.file).read_text() for one in wanted}
    keys = {one.key(sources[one.file]): one for one in wanted}
    left = results.left(keys, again=chosen.again)
    say = sys.stderr.write
    say(f"{len(keys)} mutations, {len(left)} of them to be tried\n")
    try:
        for row in trials.run(left, chosen.jobs):
            results.add(row)
            say(f"{row['outcome']:9} {row['seconds']:6} s  {row['file']}:{row['line']}  {row['words']}\n")
    finally:
        lines = list(report([results.known[key] for key in keys if key in results.known]))
        (FOLDER / "report.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{lines[0]}\nThe table is in {FOLDER / 'report.md'}.\n")


if __name__ == "__main__":
    main()
