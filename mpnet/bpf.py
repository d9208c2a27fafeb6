"""Classic BPF programs, as tcpdump compiles them from its filter expressions, run on packets one by one.

The instructions are those of Linux' Documentation/networking/filter.rst, without its extensions, which tcpdump
uses for live captures alone.
"""

import operator
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mpnet.errors import MpnetError

_ETHERNET = 1
_EMPTY = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, _ETHERNET)
"""A pcap file without packets: that of which link the filter is for."""
_COMPILE_SECONDS = 30

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_IMMEDIATE, _ABSOLUTE, _INDIRECT, _MEMORY, _LENGTH, _HEADER_LENGTH = range(0, 0xC0, 0x20)
_OF_X = 0x08
_OF_A = 0x10
_TO_A = 0x80
_WORD = 0xFFFFFFFF
_WORD_BITS = 32
_CALCULATED: Mapping[int, Callable[[int, int], int]] = MappingProxyType(
    {
        0x00: operator.add,
        0x10: operator.sub,
        0x20: operator.mul,
        0x30: operator.floordiv,
        0x40: operator.or_,
        0x50: operator.and_,
        0x60: lambda a, value: a << value if value < _WORD_BITS else 0,
        0x70: operator.rshift,
        0x80: lambda a, _: -a,
        0x90: operator.mod,
        0xA0: operator.xor,
    }
)
_MEMORY_WORDS = 16


class _OutsideError(Exception):
    """A load beyond the packet: it does not match."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: what, where to go where a test holds and where not, and its operand."""

    code: int
    jt: int
    jf: int
    k: int


class Filter:
    """A program that says of packets whether they match.

    Args:
        program: as compiled for Ethernet; jumps go forward, so that it ends.
    """

    def __init__(self, program: Sequence[Instruction]) -> None:
        self._program = program

    def matches(self, data: bytes, length: int) -> bool:
        """Tell whether a packet matches.

        Args:
            data: its first bytes.
            length: of the whole of it.
        """
        try:
            return _run(self._program, data, length) != 0
        except (_OutsideError, ZeroDivisionError):
            return False


def compile_filter(tcpdump: Path, expression: str) -> Filter:
    """Have tcpdump compile an expression in the syntax of pcap-filter(7).

    Raises:
        MpnetError: it is none.
    """
    command = [str(tcpdump), "-ddd", "-r", "-", expression]
    done = subprocess.run(command, input=_EMPTY, capture_output=True, check=False, timeout=_COMPILE_SECONDS)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1].removeprefix("tcpdump: ")
        raise MpnetError(f"the filter {expression!r}: {reason}", "man pcap-filter tells the syntax")
    lines = done.stdout.decode().splitlines()[1:]
    return Filter([Instruction(*map(int, line.split())) for line in lines])


def _run(program: Sequence[Instruction], data: bytes, length: int) -> int:
    a = x = at = 0
    memory = [0] * _MEMORY_WORDS
    while True:
        op = program[at]
        at += 1
        kind = op.code & 0x07
        if kind == _LD:
            a = _load(op, data, length, x, memory)
        elif kind == _LDX:
            x = _load(op, data, length, x, memory)
        elif kind == _ST:
            memory[op.k] = a
        elif kind == _STX:
            memory[op.k] = x
        elif kind == _ALU:
            a = _CALCULATED[op.code & 0xF0](a, x if op.code & _OF_X else op.k) & _WORD
        elif kind == _JMP:
            at += _jump(op, a, x)
        elif kind == _RET:
            return a if op.code & _OF_A else op.k
        elif op.code & _TO_A:
            a = x
        else:
            x = a


def _load(op: Instruction, data: bytes, length: int, x: int, memory: Sequence[int]) -> int:
    mode = op.code & 0xE0
    if mode == _IMMEDIATE:
        return op.k
    if mode == _MEMORY:
        return memory[op.k]
    if mode == _LENGTH:
        return length
    if mode == _HEADER_LENGTH:  # of IPv4: the low four bits, in words
        return 4 * (_bytes(data, op.k, 1) & 0x0F)
    return _bytes(data, op.k + (x if mode == _INDIRECT else 0), _SIZES[op.code & 0x18])


def _bytes(data: bytes, at: int, size: int) -> int:
    if not 0 <= at <= len(data) - size:
        raise _OutsideError
    return int.from_bytes(data[at : at + size], "big")


def _jump(op: Instruction, a: int, x: int) -> int:
    value = x if op.code & _OF_X else op.k
    match op.code & 0xF0:
        case 0x00:
            return op.k
        case 0x10:
            held = a == value
        case 0x20:
            held = a > value
        case 0x30:
            held = a >= value
        case _:
            held = a & value != 0
    return op.jt if held else op.jf
