"""Words to the service manager, as sd_notify(3) has them: one datagram a message."""

import os
import socket

from mpnet.control.log import get_log


def notify(*words: str) -> None:
    """Send words to the service manager that asked for them, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            # "@" stands for the zero byte with which an abstract address begins.
            sock.sendto("\n".join(words).encode(), f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError as error:
            get_log().warning("the service manager was not told", words=words, problem=error.strerror)
