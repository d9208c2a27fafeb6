"""A process that compiles a part of the data path and keeps the code, while workers go on with what there is."""

import json
import os
import sys
from typing import Any

_NICE = 5
"""Forwarding goes first: of a processor that is busy with it, this leaves a quarter to the compiler."""


def main(share: str) -> None:
    """Compile groups of functions, and tell of it on stdout in lines of JSON.

    Args:
        share: numbers of ``entry_points.GROUPS``, with "wait" for the end of stdin: what other processes compile
            is there then.
    """
    os.nice(_NICE)
    from mpnet.jit import cache, dispatcher, kept  # noqa: PLC0415 - not before it is nice
    from mpnet.workers import entry_points  # noqa: PLC0415 - likewise

    words = share.split()
    numbers = [int(word) for word in words if word != "wait"]
    _say(expected=entry_points.count(numbers))
    dispatcher.progress = lambda: _say(done=1)
    for word in words:
        if word == "wait":
            sys.stdin.read()
        else:
            entry_points.compile_group(int(word))
            _say(done=len(entry_points.GROUPS[int(word)]))
    _say(kept=kept.used, lost=kept.lost, complaints=cache.complaints)


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)  # noqa: T201 - what control reads
