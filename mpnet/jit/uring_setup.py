"""io_uring's set-up calls, made from Python with no compiler loaded: control asks whether there is any.

Operations of io_uring are no system calls, so no filter of those sees them. A ring is therefore made disabled
and then restricted for good, by the kernel, to what is done with it: to write to descriptors that were
registered.
"""

import ctypes
import errno
import os
import struct
from typing import Any

from mpnet.jit.system_calls import Call, equals

_SETUP, _REGISTER = 425, 427  # the same numbers on every architecture

_CLAMP, _DISABLED, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 4, 1 << 6, 1 << 7, 1 << 12, 1 << 13
_FLAGS = _CLAMP | _DISABLED | _SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASKRUN
"""A ring does nothing until it is enabled. Operations are done by the thread that hands them over, which alone
may; Linux 6.1 is the first to know all."""

_PARAMS = struct.Struct("<7I12x10I10I")
"""struct io_uring_params: seven words, three reserved, then sq_off and cq_off of 40 bytes each."""
_REGISTER_BUFFERS, _REGISTER_FILES, _UNREGISTER_FILES, _REGISTER_FILES_UPDATE = 0, 2, 3, 6
_REGISTER_RESTRICTIONS, _REGISTER_ENABLE_RINGS = 11, 12
WRITEV = 2
WRITE_FIXED = 5
WRITE = 23
"""Operations: writev(2), write(2) from a fixed buffer, write(2)."""
SQE_FIXED_FILE = 1
"""A flag of an operation: its file is a registered one."""
_RESTRICTION = struct.Struct("<HB13x")
"""struct io_uring_restriction: what kind, and which."""
_MAY_REGISTER, _MAY_DO, _MAY_FLAG, _MUST_FLAG = range(4)
_RESTRICTIONS = (
    (_MAY_REGISTER, _REGISTER_FILES_UPDATE),
    (_MAY_REGISTER, _UNREGISTER_FILES),
    *((_MAY_DO, operation) for operation in (WRITEV, WRITE_FIXED, WRITE)),
    (_MAY_FLAG, SQE_FIXED_FILE),
    (_MUST_FLAG, SQE_FIXED_FILE),
)
SYSTEM_CALLS = (
    Call("io_uring_register", equals(1, _REGISTER_FILES_UPDATE)),
    Call("io_uring_register", equals(1, _UNREGISTER_FILES)),
)
"""Once a ring is enabled."""
_FILES_UPDATE = struct.Struct("<IIQ")
"""struct io_uring_files_update: the first place, reserved, address of the descriptors."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def setup(entries: int) -> tuple[int, tuple[int, ...]]:
    """io_uring_setup(2), of a ring that is to be enabled.

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


def enable(ring: int) -> None:
    """Begin to use a ring, for writes to registered files and for nothing else.

    Raises:
        OSError: as the kernel says.
    """
    packed = b"".join(_RESTRICTION.pack(*each) for each in _RESTRICTIONS)
    _register(ring, _REGISTER_RESTRICTIONS, packed, len(_RESTRICTIONS))
    _syscall(_REGISTER, ring, _REGISTER_ENABLE_RINGS, None, 0)


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
