"""What control tells about its devices on the management socket.

Commands print these as they are with ``--json``: a field here is a promise to scripts.
"""

import msgspec


class RingReport(msgspec.Struct, kw_only=True):
    """One virtqueue.

    Attributes:
        state: a ``layout.RingState`` in lower case.
        fault: a ``layout.Fault`` in lower case.
        size: entries; 0 before the guest chose it.
        available_entries: what the guest has ready in it.
        packets: frames delivered.
        bytes: bytes of them.
        drops: frames not delivered, by ``layout.DropReason`` in lower case.
        kicks: notifications from the guest.
        calls: notifications to the guest.
        calls_suppressed: notifications the guest did not want.
    """

    state: str
    fault: str
    size: int
    available_entries: int
    packets: int
    bytes: int
    drops: dict[str, int]
    kicks: int
    calls: int
    calls_suppressed: int


class QueueReport(msgspec.Struct, kw_only=True):
    """One queue pair: its number, the worker slot that serves it (-1 for none) and its two rings."""

    pair: int
    worker: int
    rx: RingReport
    tx: RingReport


class WorkerReport(msgspec.Struct, kw_only=True):
    """One worker process.

    Attributes:
        device: the device's id.
        slot: the worker's number in the device.
        pid: its process; 0 when there is none.
        cpu: the processor it is pinned to; None where the scheduler chooses.
        pairs: queue pairs it serves.
        start_time: seconds since the epoch.
        restarts: how often it was replaced, by ``layout.RestartReason`` in lower case.
    """

    device: str
    slot: int
    pid: int
    cpu: int | None
    pairs: list[int]
    start_time: float
    restarts: dict[str, int]


class DeviceReport(msgspec.Struct, kw_only=True):
    """One device.

    Attributes:
        id: its name.
        state: "waiting" for a front-end, "connected", or "running" with a driver.
        tap: its TAP.
        socket: its vhost-user socket.
        client: whether it connects to the front-end's socket.
        mac: the guest's address.
        mtu: the guest's MTU.
        queue_pairs: how many it has.
        enabled_pairs: how many the guest uses.
        features: what the guest negotiated.
        offered_features: what it may negotiate.
        connections: how often a front-end came.
        start_to_first_packet_seconds: from the start of the control process; None before the first.
        queues: every queue pair.
        workers: every worker.
    """

    id: str
    state: str
    tap: str
    socket: str
    client: bool
    mac: str
    mtu: int
    queue_pairs: int
    enabled_pairs: int
    features: list[str]
    offered_features: list[str]
    connections: int
    start_to_first_packet_seconds: float | None
    queues: list[QueueReport]
    workers: list[WorkerReport]
