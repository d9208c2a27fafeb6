"""The decorators of compiled code; where they compile nothing, no compiler is loaded."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

JIT = os.environ.get("MPNET_JIT", "1") != "0"
"""Whether the data path is compiled; ``MPNET_JIT=0`` in the environment leaves it to the interpreter, and
``MPNET_JIT=load`` takes compiled code only where it is kept."""

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of integers, records and arrays; without the GIL, kept on disk.

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


def apart(function: Function) -> Function:
    """``compiled``, and a part of nothing: who calls it has its address.

    For what is called once a burst: it is compiled by whichever process, and not again with its callers.
    """
    return _jitted(function, apart=True)


if JIT:
    from mpnet.jit.dispatcher import jitted as _jitted
else:

    def _jitted(function: Function, **_options: bool) -> Function:
        return function
