"""A seccomp filter (seccomp(2)) of declared system calls, and of no others.

It is assembled here. libseccomp would do it too, but pip does not bring that, and a host without it would
silently do without a filter; what it takes is a comparison a call, and where an argument matters three more
instructions.

The calls of every burst come first. Since Linux 5.11 the kernel asks a filter only once about a call that it
allows whatever the arguments, and looks up a bit after that.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable

from mpnet.jit.system_calls import Call, Check, architecture, number
from mpnet.workers.isolation.libc import system_call

_SECCOMP = {0xC000003E: 317, 0xC00000B7: 277}
"""Number of seccomp(2) by architecture."""
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 4
"""Before Linux 5.16 a process with a filter pays for not speculating, which is for code that others compiled."""
_LOAD, _AND, EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
"""BPF: load a 32-bit word of struct seccomp_data, mask it, compare it, end."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Places in struct seccomp_data."""
ALLOW, TRAP, KILL = 0x7FFF0000, 0x00030000, 0x80000000
"""SECCOMP_RET_*: carry it out; send SIGSYS instead; end the process."""
_INSTRUCTION = struct.Struct("=HBBI")

Instruction = tuple[int, int, int, int]
"""A struct sock_filter: code, jumps if true and if false, operand."""


def assemble(calls: Iterable[Call]) -> list[Instruction]:
    """The program for some calls, in whose order it asks; those with a check come last.

    Raises:
        OSError: the numbers of this machine's system calls are not known.
    """
    named = [(each, value) for each in calls if (value := number(each.name)) is not None]
    free = dict.fromkeys(value for each, value in named if each.check is None)
    checked: dict[int, list[Check]] = {}
    for each, value in named:
        if each.check is not None and value not in free:
            checked.setdefault(value, []).append(each.check)
    blocks = [_block(value, checks) for value, checks in checked.items()]
    after = sum(map(len, blocks)) + 1  # where the free ones jump over: the checked ones, and the refusal
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (EQUAL, 1, 0, architecture()),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
        *((EQUAL, len(free) - 1 - place + after, 0, value) for place, value in enumerate(free)),
        *(instruction for block in blocks for instruction in block),
        (_RETURN, 0, 0, TRAP),
        (_RETURN, 0, 0, ALLOW),
    ]


def _block(value: int, checks: list[Check]) -> list[Instruction]:
    """Allow call ``value`` if one of ``checks`` fits; refuse it if none does, go on if it is another one."""
    tests: list[Instruction] = []
    for check in checks:
        tests += [
            (_LOAD, 0, 0, _ARGUMENTS + 8 * check.place),
            (_AND, 0, 0, check.mask),
            (EQUAL, 0, 1, check.value),
            (_RETURN, 0, 0, ALLOW),
        ]
    return [(EQUAL, 0, len(tests) + 1, value), *tests, (_RETURN, 0, 0, TRAP)]


def install(program: list[Instruction]) -> None:
    """Have the kernel ask ``program`` about every system call of this thread from here on, for good.

    Raises:
        OSError: the kernel has no seccomp, or no_new_privs is not set.
    """
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    seccomp = _SECCOMP[architecture()]
    try:
        system_call(seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, head)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        system_call(seccomp, _SET_MODE_FILTER, 0, head)  # before Linux 4.17
