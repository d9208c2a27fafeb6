"""io_uring's set-up calls, made from Python with no compiler loaded: control asks whether there is any."""

import ctypes
import errno
import os
import struct
from typing import Any

_SETUP, _REGISTER = 425, 427  # the same numbers on every architecture

_CLAMP, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 4, 1 << 7, 1 << 12, 1 << 13
_FLAGS = _CLAMP | _SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASKRUN
"""Operations are done by the thread that hands them over, which alone may; Linux 6.1 is the first to know all."""

_PARAMS = struct.Struct("<7I12x10I10I")
"""struct io_uring_params: seven words, three reserved, then sq_off and cq_off of 40 bytes each."""
_REGISTER_BUFFERS, _REGISTER_FILES, _UNREGISTER_FILES, _REGISTER_FILES_UPDATE = 0, 2, 3, 6
_FILES_UPDATE = struct.Struct("<IIQ")
"""struct io_uring_files_update: the first place, reserved, address of the descriptors."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def setup(entries: int) -> tuple[int, tuple[int, ...]]:
    """io_uring_setup(2).

    Args:
        entries: operations under way at most; the kernel rounds up to a power of two.

    Returns:
        The ring's descriptor and the words of struct io_uring_params.

    Raises:
        OSError: io_uring is not there, is forbidden, or is older than Linux 6.1's.
    """
    params = ctypes.create_string_buffer(_PARAMS.pack(0, 0, _FLAGS, *[0] * 24), _PARAMS.size)
    fd = _syscall(_SETUP, entries, params)
    return fd, _PARAMS.unpack(params.raw)


def why_absent() -> str:
    """Why this process can make no ring, or empty: seccomp and kernel.io_uring_disabled may forbid it."""
    try:
        fd, _ = setup(1)
    except OSError as error:
        return "it takes Linux 6.1" if error.errno == errno.EINVAL else str(error)
    os.close(fd)
    return ""


def register_buffers(ring: int, buffers: list[tuple[int, int]]) -> None:
    """Register memory by (address, size), which stays in place from here on; none is fine.

    Raises:
        OSError: as the kernel says.
    """
    packed = b"".join(struct.pack("<QQ", *each) for each in buffers)
    _register(ring, _REGISTER_BUFFERS, packed, len(buffers))


def register_files(ring: int, files: list[int]) -> None:
    """Register descriptors; -1 leaves a place free. None is fine.

    Raises:
        OSError: as the kernel says.
    """
    _register(ring, _REGISTER_FILES, struct.pack(f"<{len(files)}i", *files), len(files))


def replace_file(ring: int, place: int, file: int) -> None:
    """Put a descriptor in one of the places of ``register_files``; -1 lets go of the one there.

    Raises:
        OSError: as the kernel says.
    """
    one = ctypes.c_int(file)
    _register(ring, _REGISTER_FILES_UPDATE, _FILES_UPDATE.pack(place, 0, ctypes.addressof(one)), 1)


def forget_files(ring: int) -> None:
    """Undo ``register_files``.

    Raises:
        OSError: as the kernel says.
    """
    _syscall(_REGISTER, ring, _UNREGISTER_FILES, None, 0)


def _register(ring: int, what: int, data: bytes, count: int) -> None:
    if count:
        _syscall(_REGISTER, ring, what, ctypes.create_string_buffer(data, len(data)), count)


def _syscall(number: int, *arguments: Any) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
