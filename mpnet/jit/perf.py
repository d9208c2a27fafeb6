"""Compiled functions as profilers know functions: by name, and with stack frames that can be followed.

With ``MPNET_PERF=1`` in the environment, the machine code keeps frame pointers, which costs a register and some
instructions a call, and has a cache of its own. ``/tmp/perf-PID.map`` is written, in which perf finds names for
code that is in no file: for each worker, and for the process that they are forked from, under whose number perf
knows their code if it was there before them. It stays when they end: ``perf report`` wants it afterwards.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PERF = os.environ.get("MPNET_PERF", "0") != "0"
"""Whether compiled code is made for profilers."""

_LARGEST_FUNCTION = 1 << 20
"""Bytes; nothing tells how long the last function of a library is."""

_dispatchers: list[Any] = []


def note(dispatcher: Any) -> None:
    """Have what Numba's ``dispatcher`` compiles in ``write_map``'s map."""
    _dispatchers.append(dispatcher)


def keep_frames() -> None:
    """Have all that is compiled from now on keep frame pointers; to be called once."""
    from numba.core.codegen import CPUCodeLibrary  # noqa: PLC0415 - workers that are interpreted load no compiler

    add_ir_module: Any = CPUCodeLibrary.add_ir_module

    def add(library: Any, module: Any) -> None:
        for function in module.functions:
            if function.blocks:
                # llvmlite's own ``add`` knows LLVM's attributes without a value only.
                set.add(function.attributes, '"frame-pointer"="all"')
        add_ir_module(library, module)

    setattr(CPUCodeLibrary, "add_ir_module", add)  # noqa: B010 - mypy lets no method be assigned to


def write_map(folder: Path = Path("/tmp")) -> Path:  # noqa: S108 - where perf looks for it
    """Write the names and places of all compiled functions for perf; return the file's path.

    A line is start and bytes, both hexadecimal, and name, by which perf's ``tools/perf/Documentation/
    jit-interface.txt`` goes. Where another user has put a file of that name, it stays: perf does not read that.
    """
    functions = sorted(set(_functions()))
    ends = [start for start, _ in functions[1:]] + [functions[-1][0] + _LARGEST_FUNCTION] if functions else []
    path = folder / f"perf-{os.getpid()}.map"
    with suppress(OSError):
        path.unlink()  # of an ended process of this number; another user's stays, where the folder is sticky
    # Anybody may write to the folder: no link is followed.
    with suppress(FileExistsError), path.open("x") as file:
        file.writelines(
            f"{start:x} {min(end - start, _LARGEST_FUNCTION):x} {name}\n"
            for (start, name), end in zip(functions, ends, strict=True)
        )
    return path


def _functions() -> Iterator[tuple[int, str]]:
    """Where each compiled function begins, and its name."""
    for dispatcher in _dispatchers:
        for result in dispatcher.overloads.values():
            library = result.library
            for function in library._get_module_for_linking().functions:  # noqa: SLF001 - Numba tells no names otherwise
                address = 0 if function.is_declaration else library.get_pointer_to_function(function.name)
                if address:
                    yield address, plain_name(function.name)


def plain_name(symbol: str) -> str:
    """The dotted name in a symbol of Numba's, which mangles by the C++ ABI: ``_ZN5mpnet3jit3addB2v1...``."""
    names = []
    rest = symbol.partition("_ZN")[2]
    while match := re.match(r"\d+", rest):
        end = match.end() + int(match[0])
        names.append(rest[match.end() : end])
        rest = rest[end:]
    return ".".join(names) or symbol


if PERF:
    keep_frames()
