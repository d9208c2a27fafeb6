"""The one decorator of compiled code, and where its machine code is kept between runs."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import llvmlite
import numba
from numba.core import config as numba_config
from numba.core import types

from mpnet.jit import perf

JIT = os.environ.get("MPNET_JIT", "1") != "0"
"""Whether the data path is compiled; ``MPNET_JIT=0`` in the environment leaves it to the interpreter."""

_PACKAGE = Path(__file__).parent.parent
_HOT_FOLDERS = ("jit", "virtio", "segment", "workers", "guest")
_MEASURING_FOLDERS = ("bench", "experiment")
"""Of these only the files with compiled functions count: the others change often, and no worker has them."""
_STALE_SECONDS = 30 * 24 * 3600

Function = TypeVar("Function", bound=Callable[..., Any])


def _sources_digest() -> str:
    """Hash of all that compiled code depends on, all sources that it can come from among it.

    Numba's cache looks at the time stamp of the file that holds the function, and never at the files of what
    that function calls: without this key a change in an accessor would leave stale callers behind.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {perf.PERF}".encode())
    for folder in _HOT_FOLDERS:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(path.read_bytes())
    for folder in _MEASURING_FOLDERS:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            source = path.read_bytes()
            digest.update(source if b"\n@compiled\n" in source else b"")
    return digest.hexdigest()[:16]


def cache_directory() -> Path:
    """The folder of machine code for exactly these sources, below ``XDG_CACHE_HOME``."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mpnet" / "numba" / _sources_digest()


def _own_cache() -> Path | None:
    """Make that folder where needed; None where no machine code can be kept, and every start compiles anew."""
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home, as containers may have
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def prune_cache() -> None:
    """Remove machine code of other versions that nobody has loaded for thirty days."""
    if CACHE is None:
        return
    os.utime(CACHE)
    for folder in CACHE.parent.iterdir():
        if folder != CACHE and time.time() - folder.stat().st_mtime > _STALE_SECONDS:
            rmtree(folder, ignore_errors=True)


def compiled(function: Function) -> Function:
    """Compile a function of integers, records and arrays; without the GIL, cached on disk.

    It can make no array, and holds no reference to those it is given: their owner outlives the call. Numba would
    count references with two locked instructions for each array of a context at each call that is not inlined,
    which took more than half of a worker's time.
    """
    return _jitted(function)


def inlined(function: Function) -> Function:
    """``compiled``, and made a part of whatever calls it.

    For what is called for every frame, and does so little that the call itself counts.
    """
    return _jitted(function, forceinline=True)


def _jitted(function: Function, **options: bool) -> Function:
    if not JIT:
        return function
    njit: Any = numba.njit  # its dispatcher is called as the function is
    jitted = njit(nogil=True, cache=_KEEPS, error_model="numpy", _nrt=False, **options)(function)
    jitted.get_call_template = _for_any_value(jitted.get_call_template)
    perf.note(jitted)
    typed: Function = jitted
    return typed


def _for_any_value(get_call_template: Callable[..., Any]) -> Callable[..., Any]:
    """Have compiled callers use one function whatever constants they call it with.

    Numba would compile one for each, and for what a variable is before its loop: every third of all.
    """
    unliteral: Any = types.unliteral  # untyped in Numba

    def get(arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        return get_call_template([unliteral(argument) for argument in arguments], keywords)

    return get


_CHOSEN = "NUMBA_CACHE_DIR" in os.environ
CACHE = _own_cache() if JIT and not _CHOSEN else None
"""Where machine code is kept; None where it cannot be, or where Numba was told another place."""
_KEEPS = CACHE is not None or _CHOSEN
if CACHE:
    setattr(numba_config, "CACHE_DIR", str(CACHE))  # noqa: B010 - set at run time, unknown to mypy
