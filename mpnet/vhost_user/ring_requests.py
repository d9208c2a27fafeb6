"""Requests about one ring. Each handler changes the draft it is given and returns the effects, or refuses."""

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
    """Take a ring's size; a started ring keeps its own."""
    told = VringState.unpack(message.payload)
    ring = draft.ring(told.index)
    if ring.started:
        _require_same(ring, "size", ring.size, told.num)
        return []
    ring.size = told.num
    ring_checks.check_size(ring, packed=draft.packed)
    return _start_if_ready(draft, ring)


def set_vring_addr(draft: State, message: Message) -> list[Effect]:
    """Take a ring's addresses; on a started ring only logging may change (QEMU's migration does so)."""
    told = VringAddress.unpack(message.payload)
    ring = draft.ring(told.index)
    before = (ring.descriptor_address, ring.avail_address, ring.used_address)
    addresses = (told.descriptor, told.available, told.used)
    if ring.started and addresses != before:
        raise RefusedError(
            f"ring {ring.index} is started: its addresses cannot change before GET_VRING_BASE stops it"
        )
    logging_changed = (ring.flags, ring.log_address) != (told.flags, told.log)
    ring.descriptor_address, ring.avail_address, ring.used_address = addresses
    ring.flags, ring.log_address, ring.addresses_known = told.flags, told.log, True
    ring_checks.check_alignment(ring, packed=draft.packed)
    if ring.started:
        return [UpdateRing(ring.index)] if logging_changed else []
    return _start_if_ready(draft, ring)


def set_vring_base(draft: State, message: Message) -> list[Effect]:
    """Take where a ring begins; a started ring has moved on, so it refuses."""
    told = VringState.unpack(message.payload)
    ring = draft.ring(told.index)
    if ring.started:
        raise RefusedError(f"ring {ring.index} is started: its base cannot change before GET_VRING_BASE stops it")
    ring.base = told.num
    return []


def get_vring_base(draft: State, message: Message) -> list[Effect]:
    """Stop a ring; the answer waits until it has drained.

    The kick descriptor goes, so that only a new SET_VRING_KICK starts the ring again. The call and error
    descriptors stay: QEMU sends the error descriptor once a connection, before the first start.
    """
    ring = draft.ring(VringState.unpack(message.payload).index)
    was_started = ring.started
    ring.forget_start()
    return [StopRing(ring.index)] if was_started else []


def vring_base_reply(state: State, message: Message) -> bytes:
    """Answer GET_VRING_BASE with the base the stopped ring was left at."""
    index = VringState.unpack(message.payload).index
    return VringState(index, state.rings[index].base).pack()


def set_vring_kick(draft: State, message: Message) -> list[Effect]:
    """Take a ring's kick and start the ring if the rest is known; a started one gets the new descriptor."""
    ring, fd = _ring_and_fd(draft, message)
    ring.kick_fd, ring.kick_known = fd, True
    if ring.started:
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
    if not ring.startable:
        return []
    ring_checks.check_all(ring, draft.regions, packed=draft.packed)
    ring.started = True
    return [StartRing(ring.index)]


def _update_if_started(ring: Ring) -> list[Effect]:
    return [UpdateRing(ring.index)] if ring.started else []


def _require_same(ring: Ring, what: str, known: int, told: int) -> None:
    if known != told:
        raise RefusedError(
            f"ring {ring.index} is started with {what} {known}: it cannot become {told}"
            " before GET_VRING_BASE stops it"
        )
