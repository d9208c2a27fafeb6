"""The back-end channel: requests the back-end makes of the front-end (vhost-user.rst, "Back-end message types").

A channel's descriptor comes with SET_BACKEND_REQ_FD. User-Mode Linux passes a pipe, which carries no answer:
ask for one only where the descriptor is a socket.
"""

from mpnet.errors import ProtocolError
from mpnet.vhost_user.messages import (
    NEED_REPLY_FLAG,
    REPLY_FLAG,
    U64,
    VERSION,
    BackendRequest,
    Message,
    VringState,
)


def config_change(*, need_reply: bool = False) -> bytes:
    """Return CONFIG_CHANGE_MSG: the front-end is to read the configuration space again.

    Args:
        need_reply: ask for an acknowledgement; only where REPLY_ACK was negotiated.
    """
    return Message(BackendRequest.CONFIG_CHANGE_MSG, flags=_flags(need_reply)).pack()


def vring_call(index: int, *, need_reply: bool = False) -> bytes:
    """Return VRING_CALL: interrupt for ring ``index``; only where INBAND_NOTIFICATIONS was negotiated."""
    return Message(BackendRequest.VRING_CALL, VringState(index, 0).pack(), flags=_flags(need_reply)).pack()


def vring_err(index: int, *, need_reply: bool = False) -> bytes:
    """Return VRING_ERR: ring ``index`` is broken; only where INBAND_NOTIFICATIONS was negotiated."""
    return Message(BackendRequest.VRING_ERR, VringState(index, 0).pack(), flags=_flags(need_reply)).pack()


def parse(message: Message) -> tuple[BackendRequest, int | None]:
    """Read a request as the front-end; return it with the ring it is about, None for CONFIG_CHANGE_MSG.

    Raises:
        ProtocolError: another request, or a payload of the wrong size.
    """
    if message.request == BackendRequest.CONFIG_CHANGE_MSG:
        if message.payload:
            raise ProtocolError(f"CONFIG_CHANGE_MSG has {len(message.payload)} bytes of payload, expected none")
        return BackendRequest.CONFIG_CHANGE_MSG, None
    if message.request in {BackendRequest.VRING_CALL, BackendRequest.VRING_ERR}:
        return BackendRequest(message.request), VringState.unpack(message.payload).index
    raise ProtocolError(f"back-end request {message.request} is not supported")


def acknowledge(message: Message, *, granted: bool) -> bytes | None:
    """Return the front-end's answer to ``message``, None where it asks for none."""
    if not message.needs_reply:
        return None
    return Message(message.request, U64(0 if granted else 1).pack(), flags=VERSION | REPLY_FLAG).pack()


def _flags(need_reply: bool) -> int:
    return VERSION | NEED_REPLY_FLAG if need_reply else VERSION
