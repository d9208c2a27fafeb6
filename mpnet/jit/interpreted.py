"""``mpnet.jit.memory`` interpreted: the same by ctypes, with no compiler loaded."""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

_CTYPES: dict[int, Any] = {
    8: ctypes.c_uint8,
    16: ctypes.c_uint16,
    32: ctypes.c_uint32,
    64: ctypes.c_int64,
}
_fence_lock = threading.Lock()


def loader(bits: int, _ordering: str = "monotonic") -> Callable[[int], int]:
    """A load of ``bits`` bits."""
    ctype = _CTYPES[bits]
    return lambda address: int(ctype.from_address(int(address)).value)


def storer(bits: int, _ordering: str = "") -> Callable[[int, int], None]:
    """A store of the low ``bits`` bits."""
    ctype = _CTYPES[bits]

    def store(address: int, value: int) -> None:
        ctype.from_address(int(address)).value = int(value)

    return store


def copier() -> Callable[[int, int, int], None]:
    """A copy of bytes."""

    def copy(target: int, source: int, size: int) -> None:
        ctypes.memmove(int(target), int(source), int(size))

    return copy


def summand() -> Callable[[int, int], int]:
    """A load of a 32-bit word of an array."""
    return lambda address, index: int(ctypes.c_uint32.from_address(int(address) + 4 * int(index)).value)


def prefetcher(*, to_write: bool) -> Callable[[int], None]:  # noqa: ARG001 - as the compiled one
    """Nothing: the interpreter takes longer than any memory."""
    return lambda _address: None


def fencer() -> Callable[[], None]:
    """A full fence."""

    def fence() -> None:
        # Taking a lock is a locked instruction, which is a full fence on x86 and ordered enough elsewhere.
        with _fence_lock:
            pass

    return fence
