"""Requests about the device as a whole. Each handler changes the draft and returns the effects, or refuses."""

from mpnet.vhost_user.effects import (
    Effect,
    Reset,
    SetBackendChannel,
    SetFeatures,
    SetMtu,
    SetStatus,
    StopRing,
    UpdateRing,
    WriteConfig,
)
from mpnet.vhost_user.messages import (
    CONFIG_FLAG_MIGRATION,
    MAX_CONFIG_SIZE,
    U64,
    ConfigSpace,
    Message,
    ProtocolFeature,
)
from mpnet.vhost_user.state import RefusedError, State
from mpnet.virtio.features import Feature, has, mask, names

MIN_MTU = 68
MAX_MTU = 65535
MAC_SIZE = 6
STATUS_FEATURES_OK = 8
STATUS_NEEDS_RESET = 0x40
_MAY_CHANGE_WHILE_RUNNING = mask(Feature.VHOST_LOG_ALL, Feature.VHOST_USER_PROTOCOL_FEATURES)


def features_reply(state: State, _message: Message) -> bytes:
    """Answer GET_FEATURES."""
    return U64(state.offer.all_features).pack()


def protocol_features_reply(state: State, _message: Message) -> bytes:
    """Answer GET_PROTOCOL_FEATURES."""
    return U64(state.offer.protocol_features).pack()


def queue_num_reply(state: State, _message: Message) -> bytes:
    """Answer GET_QUEUE_NUM, of which vhost-user says only that it is the most "queues" there are.

    QEMU and DPDK read queue pairs. Those who have the device serve its configuration space, from which they take
    the pairs, read virtqueues, the control queue among them: User-Mode Linux from 7.2 on, Cloud Hypervisor.
    """
    pairs = state.offer.queue_pairs
    return U64(2 * pairs + 1 if state.negotiated(ProtocolFeature.CONFIG) else pairs).pack()


def status_reply(state: State, _message: Message) -> bytes:
    """Answer GET_STATUS."""
    return U64(state.status | (STATUS_NEEDS_RESET if state.needs_reset else 0)).pack()


def set_features(draft: State, message: Message) -> list[Effect]:
    """Take the negotiated features.

    QEMU sends them once a queue pair, the later ones with the first pair's rings running, and again when
    migration turns logging on. MQ without CTRL_VQ is right: that front-end serves the control queue itself.
    """
    features = U64.unpack(message.payload).value
    excess = features & ~draft.offer.all_features
    if excess:
        raise RefusedError(f"features acked that were not offered: {', '.join(names(excess))}")
    changed = features ^ draft.features
    if draft.running and changed & ~_MAY_CHANGE_WHILE_RUNNING:
        raise RefusedError(
            f"features changed while rings are started: {', '.join(names(changed))};"
            " GET_VRING_BASE must stop every ring first"
        )
    draft.features = features
    draft.features_refused = False
    effects: list[Effect] = [SetFeatures(features)] if changed else []
    return effects if has(features, Feature.VHOST_USER_PROTOCOL_FEATURES) else effects + _enable_all(draft)


def set_protocol_features(draft: State, message: Message) -> list[Effect]:
    """Take the negotiated protocol features."""
    features = U64.unpack(message.payload).value
    excess = features & ~draft.offer.protocol_features
    if excess:
        raise RefusedError(f"protocol features acked that were not offered: {', '.join(_protocol_names(excess))}")
    draft.protocol_features = features
    return []


def set_owner(draft: State, _message: Message) -> list[Effect]:
    """Note that the session has begun; nothing waits for it, as in other back-ends."""
    draft.owned = True
    return []


def reset(draft: State, _message: Message) -> list[Effect]:
    """Serve RESET_DEVICE and the deprecated RESET_OWNER: stop and disable every ring, forget the features.

    Guest memory, protocol features and the call and error descriptors stay: QEMU resets at every reset of its
    guest and afterwards sends only what changed in the memory table, which may be nothing.
    """
    stops = _stop_all(draft)
    for ring in draft.rings:
        ring.forget_setup()
        ring.enabled = False
    draft.features, draft.status, draft.features_refused, draft.needs_reset = 0, 0, False, False
    return [*stops, Reset()]


def set_status(draft: State, message: Message) -> list[Effect]:
    """Take the driver's device status (VIRTIO 2.1); 0, a reset, stops every ring.

    What is known of the rings stays, where they were left above all: QEMU before 8.0 sends status 0 first and
    GET_VRING_BASE after, and when it only pauses its guest it later has the rings go on from that answer.
    FEATURES_OK does not stick when the features were refused (VIRTIO 2.2.2): the driver reads it back.
    """
    status = U64.unpack(message.payload).value
    if status > 0xFF:
        raise RefusedError(f"status {status:#x} does not fit 8 bits (VIRTIO 2.1)")
    if draft.features_refused:
        status &= ~STATUS_FEATURES_OK
    stops = [] if status else _stop_all(draft)
    # Only the device sets NEEDS_RESET, and only a reset clears it (VIRTIO 2.1.2).
    status &= ~STATUS_NEEDS_RESET
    draft.needs_reset = draft.needs_reset and status != 0
    changed = status != draft.status
    draft.status = status
    return [*stops, SetStatus(status)] if changed or stops else []


def net_set_mtu(_draft: State, message: Message) -> list[Effect]:
    """Take the MTU the guest is told."""
    mtu = U64.unpack(message.payload).value
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise RefusedError(f"MTU {mtu} is not in {MIN_MTU} to {MAX_MTU}")
    return [SetMtu(mtu)]


def set_backend_req_fd(draft: State, message: Message) -> list[Effect]:
    """Take the socket for the back-end's own requests."""
    if len(message.fds) != 1:
        raise RefusedError(f"{len(message.fds)} file descriptors came, expected 1")
    draft.channel_fd = message.fds[0]
    return [SetBackendChannel(draft.channel_fd)]


def config_reply(state: State, message: Message) -> bytes:
    """Answer GET_CONFIG; past the device's own fields, up to 256 bytes, the space reads as zeros.

    Cloud Hypervisor reads all 256 whatever the device has. An empty answer says error.
    """
    told = ConfigSpace.unpack(message.payload)
    if told.offset + len(told.data) > MAX_CONFIG_SIZE:
        return b""
    space = state.config.ljust(MAX_CONFIG_SIZE, b"\0")
    return ConfigSpace(told.offset, space[told.offset : told.offset + len(told.data)], told.flags).pack()


def check_config(_draft: State, message: Message) -> list[Effect]:
    """Check that GET_CONFIG is whole; ``config_reply`` answers it."""
    ConfigSpace.unpack(message.payload)
    return []


def set_config(_draft: State, message: Message) -> list[Effect]:
    """Take a write to the configuration space: of the driver only to the MAC address, of migration anywhere."""
    told = ConfigSpace.unpack(message.payload)
    end = told.offset + len(told.data)
    if end > MAX_CONFIG_SIZE:
        raise RefusedError(f"config bytes {told.offset} to {end - 1}: the space has {MAX_CONFIG_SIZE}")
    if told.flags not in {0, CONFIG_FLAG_MIGRATION}:
        raise RefusedError(f"config flags {told.flags:#x}, expected 0 or {CONFIG_FLAG_MIGRATION}")
    if told.flags != CONFIG_FLAG_MIGRATION and end > MAC_SIZE:
        raise RefusedError(
            f"config bytes {told.offset} to {end - 1} are read-only: a driver writes only the MAC address,"
            f" bytes 0 to {MAC_SIZE - 1} (VIRTIO 5.1.4)"
        )
    return [WriteConfig(told.offset, told.data, told.flags)]


def _stop_all(draft: State) -> list[Effect]:
    stops: list[Effect] = [StopRing(ring.index) for ring in draft.rings if ring.started]
    for ring in draft.rings:
        ring.forget_start()
    return stops


def _enable_all(draft: State) -> list[Effect]:
    """Without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from the start (vhost-user.rst, "Ring states")."""
    disabled = [ring for ring in draft.rings if not ring.enabled]
    for ring in disabled:
        ring.enabled = True
    return [UpdateRing(ring.index) for ring in disabled if ring.started]


def _protocol_names(bits: int) -> list[str]:
    known = {feature.value: feature.name for feature in ProtocolFeature}
    return [known.get(number, f"bit_{number}") for number in range(64) if bits >> number & 1]
