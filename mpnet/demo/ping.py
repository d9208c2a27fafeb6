"""Echo requests through the host's kernel (RFC 792), as ping sends them: it is not on every machine."""

import os
import socket
import struct
import time

from mpnet.guest.checksum import checksum

_REQUEST, _REPLY = 8, 0
_PAYLOAD = bytes(range(56))


def ping(address: str, count: int, seconds: float = 5.0) -> list[float]:
    """Send ``count`` requests, one after the other; return the milliseconds of each that was answered.

    Args:
        address: IPv4.
        count: requests.
        seconds: to wait for each answer.
    """
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(seconds)
        for number in range(count):
            header = struct.pack(">HH", os.getpid() & 0xFFFF, number)
            message = bytes((_REQUEST, 0, 0, 0)) + header + _PAYLOAD
            total = checksum(message).to_bytes(2, "big")
            begin = time.perf_counter()
            sock.sendto(message[:2] + total + message[4:], (address, 0))
            if _answered(sock, header, begin + seconds):
                times.append((time.perf_counter() - begin) * 1e3)
    return times


def _answered(sock: socket.socket, header: bytes, deadline: float) -> bool:
    """Read until the reply with this identifier and number comes."""
    while time.perf_counter() < deadline:
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            return False
        reply = packet[4 * (packet[0] & 15) :]
        if reply[0] == _REPLY and reply[4:8] == header and reply[8:] == _PAYLOAD:
            return True
    return False
