"""The Internet checksum over private headers and a guest's buffers (RFC 1071).

Sums are of 16-bit words in network byte order, folded, not inverted.
"""

import sys

from mpnet.jit.compile import compiled
from mpnet.jit.memory import load_u8, load_u16, store_u16, summand
from mpnet.workers.chain import iovec_base, iovec_length
from mpnet.workers.state import Context

_LITTLE = sys.byteorder == "little"
_LAST_BYTE_SHIFT = 0 if _LITTLE else 8


@compiled
def load_be16(address: int) -> int:
    """The 16-bit number in network byte order at ``address``."""
    value = load_u16(address)
    return swap(value) if _LITTLE else value


@compiled
def store_be16(address: int, value: int) -> None:
    """Store the low 16 bits in network byte order."""
    value &= 0xFFFF
    store_u16(address, swap(value) if _LITTLE else value)


@compiled
def load_be32(address: int) -> int:
    """The 32-bit number in network byte order at ``address``."""
    return load_be16(address) << 16 | load_be16(address + 2)


@compiled
def fold(total: int) -> int:
    """Add the carries of a sum back in until 16 bits are left."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@compiled
def swap(total: int) -> int:
    """A folded sum with its bytes swapped: that of the same bytes moved by one (RFC 1071, 2 (B))."""
    return (total & 0xFF) << 8 | total >> 8


@compiled
def sum_bytes(address: int, size: int) -> int:
    """Sum of ``size`` bytes, a last odd one padded; below 2^18 of them, so that no carry is lost."""
    total = 0
    words = size >> 2
    for i in range(words):
        total += summand(address, i)
    rest = address + 4 * words
    if size & 2:
        total += load_u16(rest)
    if size & 1:
        total += load_u8(address + size - 1) << _LAST_BYTE_SHIFT
    total = fold(total)
    return swap(total) if _LITTLE else total


@compiled
def sum_buffers(ctx: Context, begin: int, end: int) -> int:
    """Sum of the buffers in slots ``begin`` to ``end``, of any lengths, as of one run of bytes."""
    total = 0
    odd = 0
    for slot in range(begin, end):
        size = iovec_length(ctx, slot)
        part = sum_bytes(iovec_base(ctx, slot), size)
        total += swap(part) if odd else part
        odd ^= size & 1
    return fold(total)


@compiled
def pseudo_header_sum(address: int, ipv6: int, protocol: int, length: int) -> int:
    """Sum of the pseudo-header of a TCP or UDP packet (RFC 9293 3.1, RFC 8200 8.1).

    Args:
        address: of the IP header.
        ipv6: whether it is IPv6's.
        protocol: TCP's or UDP's number.
        length: bytes of transport header and payload.
    """
    addresses = sum_bytes(address + 8, 32) if ipv6 else sum_bytes(address + 12, 8)
    return fold(addresses + protocol + (length & 0xFFFF) + (length >> 16))
