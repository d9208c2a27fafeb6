"""Requests about one ring. Each handler changes the draft it is given and returns the effects, or refuses.

Setting up a started ring anew stops it first: User-Mode Linux never sends GET_VRING_BASE, and when its driver is
loaded again comes back on the same connection with SET_VRING_NUM, _BASE, _ADDR and _KICK.
"""

from mpnet.vhost_user import ring_checks
from mpnet.vhost_user.effects import Effect, StartRing, StopRing, UpdateRing
from mpnet.vhost_user.messages import (
    U64,
    VRING_INDEX_MASK,
    VRING_NOFD_FLAG,
    Message,
    VringAddress,
    VringState,
)
from mpnet.vhost_user.ring import Ring
from mpnet.vhost_user.state import RefusedError, State


def set_vring_num(draft: State, message: Message) -> list[Effect]:
    """Take a ring's size; another size than a started ring's stops it."""
    told = VringState.unpack(message.payload)
    ring = draft.ring(told.index)
    effects = _stop(ring) if told.num != ring.size else []
    ring.size = told.num
    ring_checks.check_size(ring, packed=draft.packed)
    return effects + _start_if_ready(draft, ring)


def set_vring_addr(draft: State, message: Message) -> list[Effect]:
    """Take a ring's addresses; other ones than a started ring's stop it, a change of logging does not."""
    told = VringAddress.unpack(message.payload)
    ring = draft.ring(told.index)
    before = (ring.descriptor_address, ring.avail_address, ring.used_address)
    addresses = (told.descriptor, told.available, told.used)
    effects = _stop(ring) if addresses != before else []
    if ring.started and (ring.flags, ring.log_address) != (told.flags, told.log):
        effects = [UpdateRing(ring.index)]
    ring.descriptor_address, ring.avail_address, ring.used_address = addresses
    ring.flags, ring.log_address, ring.addresses_known = told.flags, told.log, True
    ring_checks.check_alignment(ring, packed=draft.packed)
    return effects + _start_if_ready(draft, ring)


def set_vring_base(draft: State, message: Message) -> list[Effect]:
    """Take where a ring begins, which stops a started ring."""
    told = VringState.unpack(message.payload)
    ring = draft.ring(told.index)
    effects = _stop(ring)
    ring.base = told.num
    return effects


def get_vring_base(draft: State, message: Message) -> list[Effect]:
    """Stop a ring; the answer waits until it has drained.

    The kick descriptor goes, so that only a new SET_VRING_KICK starts the ring again. The call and error
    descriptors stay: QEMU sends the error descriptor once a connection, before the first start.
    """
    ring = draft.ring(VringState.unpack(message.payload).index)
    effects = _stop(ring)
    ring.forget_start()
    return effects


def vring_base_reply(state: State, message: Message) -> bytes:
    """Answer GET_VRING_BASE with the base the stopped ring was left at."""
    index = VringState.unpack(message.payload).index
    return VringState(index, state.rings[index].base).pack()


def set_vring_kick(draft: State, message: Message) -> list[Effect]:
    """Take a ring's kick and start the ring if the rest is known; a started one gets the new descriptor."""
    ring, fd = _ring_and_fd(draft, message)
    ring.kick_fd, ring.kick_known = fd, True
    if ring.started:
        ring_checks.check_kick(ring, draft)
        return [UpdateRing(ring.index)]
    return _start_if_ready(draft, ring)


def set_vring_call(draft: State, message: Message) -> list[Effect]:
    """Take a ring's call descriptor; QEMU changes it at run time, to mask interrupts."""
    ring, fd = _ring_and_fd(draft, message)
    ring.call_fd = fd
    return _update_if_started(ring)


def set_vring_err(draft: State, message: Message) -> list[Effect]:
    """Take a ring's error descriptor."""
    ring, fd = _ring_and_fd(draft, message)
    ring.err_fd = fd
    return _update_if_started(ring)


def set_vring_enable(draft: State, message: Message) -> list[Effect]:
    """Enable or disable a ring; QEMU sends this before SET_FEATURES too, so it needs nothing first."""
    told = VringState.unpack(message.payload)
    if told.num > 1:
        raise RefusedError(f"ring {told.index}: enable is {told.num}, expected 0 or 1")
    ring = draft.ring(told.index)
    if ring.enabled == bool(told.num):
        return []
    ring.enabled = bool(told.num)
    return _update_if_started(ring)


def start(draft: State, ring: Ring) -> Effect:
    """Start a startable ring: the only way to, whatever request it is that completes it.

    Raises:
        RefusedError: it cannot be served as it is.
    """
    ring_checks.check_all(ring, draft)
    ring.started = True
    return StartRing(ring.index)


def _ring_and_fd(draft: State, message: Message) -> tuple[Ring, int | None]:
    """Read the payload shared by SET_VRING_KICK, _CALL and _ERR."""
    value = U64.unpack(message.payload).value
    ring = draft.ring(value & VRING_INDEX_MASK)
    if value & VRING_NOFD_FLAG:
        return ring, None
    if len(message.fds) != 1:
        raise RefusedError(f"ring {ring.index}: {len(message.fds)} file descriptors came, expected 1")
    return ring, message.fds[0]


def _start_if_ready(draft: State, ring: Ring) -> list[Effect]:
    return [start(draft, ring)] if ring.startable else []


def _update_if_started(ring: Ring) -> list[Effect]:
    return [UpdateRing(ring.index)] if ring.started else []


def _stop(ring: Ring) -> list[Effect]:
    """Stop a ring that is started; a new kick must start it again."""
    if not ring.started:
        return []
    ring.forget_start()
    return [StopRing(ring.index)]
