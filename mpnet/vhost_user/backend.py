"""The back-end's side of vhost-user as a state machine: messages in, effects out, no I/O.

A request is a transaction. ``receive()`` works on a draft of the state and either adopts it, with effects for the
session to perform, or drops it with a reason. The session then says how the effects went: ``done()`` or
``failed()``, which takes the adopted draft back. A descriptor that came with a request, or that a request put out
of use, is given up exactly once: by the difference of what the state held before and holds after.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mpnet.errors import ProtocolError
from mpnet.vhost_user import device_requests as device
from mpnet.vhost_user import memory_requests as memory
from mpnet.vhost_user import ring_requests as vring
from mpnet.vhost_user.effects import (
    Close,
    CloseFds,
    Effect,
    MemoryRegion,
    Send,
    SetBackendChannel,
    StartRing,
    StopRing,
)
from mpnet.vhost_user.messages import (
    REPLY_FLAG,
    SINGLE_REGION_SIZE,
    U64,
    VERSION,
    Message,
    ProtocolFeature,
    Request,
    VringAddress,
    VringState,
)
from mpnet.vhost_user.ring import Ring
from mpnet.vhost_user.state import MalformedError, Offer, RefusedError, State, UnmappedRingError

Handler = Callable[[State, Message], list[Effect]]
Reply = Callable[[State, Message], bytes]

LOG_LENGTH = 64


def _nothing(_draft: State, _message: Message) -> list[Effect]:
    return []


@dataclass(frozen=True, slots=True)
class Rule:
    """How one request is served.

    Attributes:
        handle: changes the draft and returns effects; raises RefusedError.
        size: bytes the payload must have; None where ``handle`` checks it.
        needs: the protocol feature that must be offered.
        reply: makes the payload of a request's own reply, once its effects are done; None: only REPLY_ACK.
    """

    handle: Handler = _nothing
    size: int | None = 0
    needs: ProtocolFeature | None = None
    reply: Reply | None = None


_U64 = U64.layout.size
_STATE = VringState.layout.size

RULES: Mapping[int, Rule] = MappingProxyType(
    {
        Request.GET_FEATURES: Rule(reply=device.features_reply),
        Request.SET_FEATURES: Rule(device.set_features, _U64),
        Request.SET_OWNER: Rule(device.set_owner),
        Request.RESET_OWNER: Rule(device.reset),
        Request.SET_MEM_TABLE: Rule(memory.set_mem_table, None),
        Request.SET_VRING_NUM: Rule(vring.set_vring_num, _STATE),
        Request.SET_VRING_ADDR: Rule(vring.set_vring_addr, VringAddress.layout.size),
        Request.SET_VRING_BASE: Rule(vring.set_vring_base, _STATE),
        Request.GET_VRING_BASE: Rule(vring.get_vring_base, _STATE, reply=vring.vring_base_reply),
        Request.SET_VRING_KICK: Rule(vring.set_vring_kick, _U64),
        Request.SET_VRING_CALL: Rule(vring.set_vring_call, _U64),
        Request.SET_VRING_ERR: Rule(vring.set_vring_err, _U64),
        Request.GET_PROTOCOL_FEATURES: Rule(reply=device.protocol_features_reply),
        Request.SET_PROTOCOL_FEATURES: Rule(device.set_protocol_features, _U64),
        Request.GET_QUEUE_NUM: Rule(needs=ProtocolFeature.MQ, reply=device.queue_num_reply),
        Request.SET_VRING_ENABLE: Rule(vring.set_vring_enable, _STATE),
        Request.NET_SET_MTU: Rule(device.net_set_mtu, _U64, ProtocolFeature.NET_MTU),
        Request.SET_BACKEND_REQ_FD: Rule(device.set_backend_req_fd, 0, ProtocolFeature.BACKEND_REQ),
        Request.GET_CONFIG: Rule(device.check_config, None, ProtocolFeature.CONFIG, device.config_reply),
        Request.SET_CONFIG: Rule(device.set_config, None, ProtocolFeature.CONFIG),
        Request.RESET_DEVICE: Rule(device.reset, 0, ProtocolFeature.RESET_DEVICE),
        Request.GET_MAX_MEM_SLOTS: Rule(
            needs=ProtocolFeature.CONFIGURE_MEM_SLOTS, reply=memory.max_mem_slots_reply
        ),
        Request.ADD_MEM_REG: Rule(memory.add_mem_reg, SINGLE_REGION_SIZE, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        Request.REM_MEM_REG: Rule(memory.rem_mem_reg, SINGLE_REGION_SIZE, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        Request.SET_STATUS: Rule(device.set_status, _U64, ProtocolFeature.STATUS),
        Request.GET_STATUS: Rule(needs=ProtocolFeature.STATUS, reply=device.status_reply),
    }
)


_KEEP_BASE = frozenset(
    {
        Request.GET_VRING_BASE,
        Request.SET_STATUS,
        Request.SET_MEM_TABLE,
        Request.ADD_MEM_REG,
        Request.REM_MEM_REG,
    }
)
"""Requests that stop rings which may go on later where they were left."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One request the front-end made: its name, and "ok" or why it was refused."""

    request: str
    outcome: str


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request between ``receive()`` and ``done()`` or ``failed()``.

    Attributes:
        message: the request.
        rule: how it is served; None where it has none.
        before: the state to go back to.
        stops: ring indexes the effects stop.
        starts: those that they start.
        refusal: why it was refused; empty where it was granted.
    """

    message: Message
    rule: Rule | None
    before: State
    stops: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    refusal: str = ""


class Backend:
    """One front-end's session with the device; used again for the next one after ``disconnected()``.

    Call ``receive()``, perform the effects in order, then call ``done()`` and perform those. Where performing an
    effect fails, skip the rest and call ``failed()`` instead. After a ``Close`` effect, and when the socket ends,
    call ``disconnected()``.
    """

    def __init__(self, offer: Offer, config: bytes = b"") -> None:
        self.offer = offer
        self.log: deque[LogEntry] = deque(maxlen=LOG_LENGTH)
        self.unmapped_rings = 0
        """Starts refused as the ring lies in no region, since one was granted; kept between sessions."""
        self._state = State.fresh(offer, config)
        self._pending: _Pending | None = None
        self._unwanted: list[int] = []
        self._heard = False
        self._closing = False

    @property
    def rings(self) -> list[Ring]:
        """What is known of each ring, by index; read it anew after each ``receive()``."""
        return self._state.rings

    @property
    def regions(self) -> tuple[MemoryRegion, ...]:
        """The memory table as of now."""
        return self._state.regions

    @property
    def features(self) -> int:
        """The negotiated virtio features; 0 before SET_FEATURES."""
        return self._state.features

    @property
    def protocol_features(self) -> int:
        """The negotiated protocol features."""
        return self._state.protocol_features

    @property
    def status(self) -> int:
        """The driver's device status (VIRTIO 2.1), where the front-end tells it; else 0."""
        return self._state.status

    @property
    def negotiation(self) -> str:
        """``listening`` before the first message, ``running`` with a ring started, else ``negotiating``."""
        if self._state.running:
            return "running"
        return "negotiating" if self._heard else "listening"

    @property
    def control_ring(self) -> int | None:
        """The control queue's ring index (VIRTIO 5.1.2); None where the front-end serves that queue itself."""
        return self._state.control_ring

    def require_reset(self) -> None:
        """The driver broke a ring: GET_STATUS says DEVICE_NEEDS_RESET until a reset (VIRTIO 2.1.2)."""
        self._state.needs_reset = True

    def set_config(self, config: bytes) -> None:
        """Set the configuration space that GET_CONFIG answers with, in the layout of ``NetConfig.pack()``."""
        self._state.config = config

    def receive(self, message: Message) -> list[Effect]:
        """Take one message; return what to do, in order. Never raises for anything a front-end sends."""
        self._heard = True
        if self._closing:
            self._unwanted += message.fds
            return []
        rule = RULES.get(message.request)
        draft = self._state.draft()
        try:
            effects = _serve(rule, draft, message)
        except RefusedError as refusal:
            self.unmapped_rings += isinstance(refusal, UnmappedRingError)
            return self._refuse(message, rule, str(refusal))
        except ProtocolError as malformed:
            self._unwanted += message.fds
            return self._close(message, str(malformed))
        stops = tuple(effect.index for effect in effects if isinstance(effect, StopRing))
        starts = tuple(effect.index for effect in effects if isinstance(effect, StartRing))
        if starts:
            self.unmapped_rings = 0
        self._pending = _Pending(message, rule, self._state, stops, starts)
        self._state = draft
        return effects

    def refuse(self, message: Message, reason: str) -> list[Effect]:
        """Refuse a message for what the session sees of it, as ``receive()`` does for what it says.

        Args:
            message: with those of its descriptors that are to be closed here.
            reason: what is wrong with it.
        """
        self._heard = True
        if self._closing:
            self._unwanted += message.fds
            return []
        return self._refuse(message, RULES.get(message.request), reason)

    def ring_stopped(self, index: int, base: int) -> None:
        """Tell where a ring was left once ``StopRing`` has been performed.

        GET_VRING_BASE answers with it, and a ring that lost its memory for a while goes on there. Where the ring
        stops for RESET_DEVICE or a new set-up the number is not kept.

        Args:
            index: the ring.
            base: in the format of ``Ring.base``.
        """
        if self._pending and self._pending.message.request in _KEEP_BASE:
            self._state.rings[index].base = base

    def done(self) -> list[Effect]:
        """Tell that the effects were performed; return the closing of descriptors out of use, and the reply."""
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        self._give_up(pending, self._state)
        self.log.append(LogEntry(pending.message.name, pending.refusal or "ok"))
        reply = self._reply(pending)
        return self._closings() + ([reply] if reply else [])

    def failed(self, reason: str) -> list[Effect]:
        """Tell that an effect could not be performed, and left nothing behind; the request is taken back.

        A request that stops rings cannot be taken back, and one whose sender expects no acknowledgement cannot
        be refused: these close the session. A ring that would not stop counts as stopped: end its worker first.
        One that was to start does not count as started, whether or not it was its turn.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        if pending.stops:
            for index in pending.starts:
                self._state.rings[index].forget_start()
            self._give_up(pending, self._state)
            return self._close(pending.message, reason)
        self._state = replace(pending.before, config=self._state.config)
        return self._refuse(pending.message, pending.rule, reason) + self.done()

    def disconnected(self) -> list[Effect]:
        """Tell that the connection is gone; return the stopping of rings and the closing of everything held."""
        if self._pending:
            self._give_up(self._pending, self._state)
        state = self._state
        effects: list[Effect] = [StopRing(ring.index) for ring in state.rings if ring.started]
        if state.channel_fd is not None:
            effects.append(SetBackendChannel(None))
        self._unwanted += state.fds
        effects += self._closings()
        self._state = State.fresh(self.offer, state.config)
        self._pending, self._heard, self._closing = None, False, False
        return effects

    def _refuse(self, message: Message, rule: Rule | None, reason: str) -> list[Effect]:
        """Answer "no" where the protocol has a way to, or close."""
        if message.request == Request.SET_FEATURES:
            self._state.features_refused = True
        if _acknowledges(rule, message, self._state):
            self._pending = _Pending(message, rule, self._state, refusal=reason)
            return []
        self._unwanted += message.fds
        return self._close(message, reason)

    def _close(self, message: Message, reason: str) -> list[Effect]:
        self._closing = True
        self.log.append(LogEntry(message.name, reason))
        return [Close(f"{message.name}: {reason}")]

    def _reply(self, pending: _Pending) -> Send | None:
        message, rule = pending.message, pending.rule
        if rule and rule.reply and not pending.refusal:
            payload = rule.reply(self._state, message)
        elif _acknowledges(rule, message, self._state):
            payload = U64(1 if pending.refusal else 0).pack()
        else:
            return None
        return Send(Message(message.request, payload, flags=VERSION | REPLY_FLAG).pack())

    def _give_up(self, pending: _Pending, kept: State) -> None:
        held = set(kept.fds)
        came = (*pending.before.fds, *pending.message.fds)
        self._unwanted += [fd for fd in dict.fromkeys(came) if fd not in held]

    def _closings(self) -> list[Effect]:
        unwanted, self._unwanted = tuple(self._unwanted), []
        return [CloseFds(unwanted)] if unwanted else []


def _serve(rule: Rule | None, draft: State, message: Message) -> list[Effect]:
    if rule is None:
        raise RefusedError(f"{message.name} is not supported, and no feature offered calls for it")
    if rule.needs is not None and not draft.offer.protocol_features >> rule.needs & 1:
        raise RefusedError(f"protocol feature {rule.needs.name} is not offered")
    if rule.size is not None and len(message.payload) != rule.size:
        raise MalformedError(f"the payload has {len(message.payload)} bytes, expected {rule.size}")
    return rule.handle(draft, message)


def _acknowledges(rule: Rule | None, message: Message, state: State) -> bool:
    """Tell whether the sender waits for a REPLY_ACK: it asked, it may ask, and the request has no own reply."""
    has_own_reply = rule is not None and rule.reply is not None
    return message.needs_reply and state.negotiated(ProtocolFeature.REPLY_ACK) and not has_own_reply
