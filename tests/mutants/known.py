"""Mutations that are always tried, and those that change nothing anybody could notice, each with its reason."""

import tomllib
from pathlib import Path
from typing import Any

from tests.mutants.mutations import Mutation

_HERE = Path(__file__).parent


def curated(root: Path) -> list[Mutation]:
    """The mutations of ``curated.toml``: slips of the kinds that tests once let pass.

    Raises:
        AssertionError: the source no longer has what one of them replaces, exactly once.
    """
    found = []
    for row in tomllib.loads((_HERE / "curated.toml").read_text())["mutation"]:
        source = (root / row["file"]).read_text()
        assert source.count(row["was"]) == 1, f"{row['file']} has {source.count(row['was'])} of {row['was']!r}"
        begin = source.index(row["was"])
        line = source.count("\n", 0, begin) + 1
        found.append(Mutation(row["file"], line, row["was"], row["becomes"], begin, row["what"]))
    return found


def reason_of(row: dict[str, Any]) -> str:
    """Why a mutation that survived is no slip; empty where that is not known.

    Told by file and words, so that lines may move.
    """
    for known in tomllib.loads((_HERE / "equivalent.toml").read_text()).get("mutation", []):
        if (known["file"], known["words"]) == (row["file"], row["words"]):
            return f"equivalent: {known['reason']}"
    return ""
