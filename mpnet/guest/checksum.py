"""The Internet checksum, for the frames the driver builds outside compiled code (RFC 1071)."""

import struct


def ones_complement_sum(data: bytes) -> int:
    """The sum of 16-bit big-endian words, a last odd byte padded, not inverted."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    return (total - 1) % 0xFFFF + 1 if total else 0


def checksum(data: bytes) -> int:
    """The Internet checksum of ``data``, whose own checksum field must be zero."""
    return ones_complement_sum(data) ^ 0xFFFF


def transport_checksum(source: bytes, target: bytes, protocol: int, data: bytes) -> int:
    """The checksum of UDP, TCP or ICMPv6 between two packed addresses (RFC 768, RFC 8200 section 8.1)."""
    return checksum(source + target + struct.pack(">IHBB", len(data), 0, 0, protocol) + data)
