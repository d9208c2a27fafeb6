"""What commands read of the control process's answers.

The answers say more, and ``--json`` prints them whole.
"""

import msgspec


class RingReport(msgspec.Struct, kw_only=True):
    """One virtqueue.

    Attributes:
        queue: its queue pair; None for the control queue.
        worker: slot of the worker that serves it; None while none does.
        direction: "rx" and "tx" as the guest sees them, or "control".
        state: a ``layout.RingState`` in lower case.
        fault: a ``layout.Fault`` in lower case.
        size: entries; 0 before the guest chose it.
        available_entries: what the guest has ready in it.
        packets: frames delivered.
        bytes: bytes of them.
        kicks: notifications from the guest.
        calls: notifications to the guest.
        calls_suppressed: notifications the guest did not want.
        drops: frames not delivered, by ``layout.DropReason`` in lower case.
    """

    queue: int | None
    worker: int | None
    direction: str
    state: str
    fault: str
    size: int
    available_entries: int
    packets: int
    bytes: int
    kicks: int
    calls: int
    calls_suppressed: int
    drops: dict[str, int]


class WorkerReport(msgspec.Struct, kw_only=True):
    """One worker process.

    Attributes:
        slot: its number in the device.
        state: "running" or "being replaced".
        pid: its process; None when there is none.
        cpu: the processor it is pinned to; None where the scheduler chooses.
        age: seconds since it started.
        pairs: queue pairs it serves.
        restarts: how often it was replaced, by ``layout.RestartReason`` in lower case.
        engine: how it writes to the TAP, a ``layout.Engine`` in lower case.
        code: what it runs, a ``layout.Code`` in lower case.
        unisolated: what it keeps of its rights and why, by stage of its isolation; None until that is known.
        device: the device's id, where workers of several are listed.
    """

    slot: int
    state: str
    pid: int | None
    cpu: int | None
    age: float | None
    pairs: list[int]
    restarts: dict[str, int]
    engine: str
    code: str
    unisolated: dict[str, str] | None = None
    device: str = ""


class PeerReport(msgspec.Struct, kw_only=True):
    """The front-end's process: its id and its command's name."""

    pid: int
    name: str


class SessionReport(msgspec.Struct, kw_only=True):
    """The vhost-user connection.

    Attributes:
        state: how far negotiation is; without a front-end "listening", "connecting" to its socket, "closed" as
            the inherited socket is, or "not accepting" while no connection can be taken.
        front_end: who is connected.
        connections: how often a front-end came.
        memory_regions: pieces of guest memory it has told of.
        memory_regions_unshared: those of them that it does not share: packets in them never arrive here.
        unmapped_rings: starts of rings refused, since one was granted, as they lie in none of the regions.
    """

    state: str
    front_end: PeerReport | None
    connections: int
    memory_regions: int = 0
    memory_regions_unshared: int = 0
    unmapped_rings: int = 0


class TapReport(msgspec.Struct, kw_only=True):
    """The TAP: its name, whether it is up, and whether it is there at all."""

    name: str
    up: bool
    present: bool = True


class ConfigReport(msgspec.Struct, kw_only=True):
    """What a device was configured with: its vhost-user socket, and what is behind it."""

    socket: str
    client: bool = False
    backend: str = "tap"


class DeviceReport(msgspec.Struct, kw_only=True):
    """One device.

    Attributes:
        id: its name.
        config: as it was asked for.
        mac: the guest's address.
        mtu: the guest's MTU.
        link: "up" or "down".
        poll_us: how long a worker may poll before it sleeps.
        queue_pairs: how many it has.
        offered_pairs: how many a guest may use.
        enabled_pairs: how many the guest uses.
        features: what the guest negotiated.
        features_offered: what it may negotiate.
        session: the vhost-user connection.
        tap: its TAP; None where it has none.
        rings: every virtqueue.
        workers: every worker.
        start_to_first_ring_seconds: from the start of the control process until a guest's first ring was started.
        start_to_first_packet_seconds: from the start of the control process; None before the first.
    """

    id: str
    config: ConfigReport
    mac: str
    mtu: int
    link: str
    poll_us: int
    queue_pairs: int
    offered_pairs: int
    enabled_pairs: int
    features: list[str]
    features_offered: list[str]
    session: SessionReport
    tap: TapReport | None
    rings: list[RingReport]
    workers: list[WorkerReport]
    start_to_first_packet_seconds: float | None
    start_to_first_ring_seconds: float | None = None

    @property
    def state(self) -> str:
        """One word: "unshared" memory, "broken", "running", "connected" or "waiting" for a front-end."""
        states = {ring.state for ring in self.rings}
        if self.session.memory_regions_unshared or self.session.unmapped_rings:
            return "unshared"
        for state in ("broken", "running"):
            if state in states:
                return state
        return "connected" if self.session.front_end else "waiting"
