"""What a device is doing, as plain values for the management socket."""

import time
from typing import Any

import msgspec

from mpnet.control.device import Device
from mpnet.control.worker import Worker
from mpnet.segment.layout import Code, DropReason, Engine, Fault, RestartReason, RingState, name_of, workers_of
from mpnet.tap.absent import NoTap
from mpnet.virtio.config_space import format_mac
from mpnet.virtio.features import names

_COUNTERS = (
    "packets",
    "bytes",
    "gso_packets",
    "kicks",
    "calls",
    "calls_suppressed",
    "faults",
    "available_entries",
)


def describe_device(device: Device) -> dict[str, Any]:
    """Return everything ``mpnet device show`` tells."""
    backend, header = device.backend, device.segment.header
    return {
        "id": device.config.id,
        "config": msgspec.to_builtins(device.config),
        "mac": format_mac(device.settings.mac),
        "mtu": device.mtu,
        "link": "up" if device.link_up and not device.tap.gone else "down",
        "poll_us": device.supervisor.desired.poll_us,
        "queue_pairs": device.config.queue_pairs,
        "offered_pairs": device.offered_pairs,
        "enabled_pairs": int(header.enabled_pairs),
        "features_offered": names(backend.offer.all_features),
        "features": names(backend.features),
        "status": backend.status,
        "session": _session(device),
        "tap": _tap(device),
        "rings": [_ring(device, number) for number in range(len(device.segment.rings))],
        "workers": describe_workers(device),
    }


def describe_workers(device: Device) -> list[dict[str, Any]]:
    """Return what ``mpnet worker list`` tells of a device, by slot; a slot whose worker is being replaced too."""
    supervisor = device.supervisor
    return [_worker(device, slot, supervisor.workers.get(slot)) for slot in range(supervisor.count)]


def _session(device: Device) -> dict[str, Any]:
    peer = device.peer
    return {
        "state": device.backend.negotiation if peer else _waiting(device),
        "front_end": {"pid": peer.pid, "uid": peer.uid, "name": peer.name} if peer else None,
        "connections": int(device.segment.header.connections),
        "memory_regions": len(device.backend.regions),
        "memory_regions_unshared": len(device.unshared),
        "unmapped_rings": device.backend.unmapped_rings,
        "requests": [{"request": entry.request, "outcome": entry.outcome} for entry in device.backend.log],
    }


def _waiting(device: Device) -> str:
    """How a device without a front-end waits for one."""
    if device.config.client:
        return "connecting"
    if device.config.socket_fd is not None:
        return "closed"  # it was connected when it was inherited: nobody can come any more
    return "listening" if device.accepts() else "not accepting"


def _tap(device: Device) -> dict[str, Any] | None:
    tap = device.tap
    if isinstance(tap, NoTap):
        return None
    return {
        "name": tap.name,
        "present": not tap.gone,
        "up": tap.up,
        "mtu": tap.mtu,
        "multi_queue": tap.multi_queue,
        "created": tap.created,
        "attached": sorted(tap.attached),
    }


def _ring(device: Device, number: int) -> dict[str, Any]:
    record = device.segment.rings[number]
    control = number == device.supervisor.desired.control_ring
    return {
        "index": number,
        "queue": None if control else number // 2,
        "worker": int(record.worker) - 1 if record.worker else None,
        "direction": "control" if control else ("rx", "tx")[number % 2],
        "state": name_of(RingState, int(record.state)),
        "fault": name_of(Fault, int(record.fault)),
        "size": int(record.entries),
        **{counter: int(record[counter]) for counter in _COUNTERS},
        "drops": {reason.name.lower(): int(record.drops[reason]) for reason in DropReason},
    }


def _worker(device: Device, slot: int, worker: Worker | None) -> dict[str, Any]:
    record = device.segment.workers[slot]
    return {
        "slot": slot,
        "pid": worker.pid if worker else None,
        "state": "running" if worker and worker.alive else "being replaced",
        "unisolated": worker.unisolated if worker else None,
        "cpu": worker.cpu if worker else None,
        "age": worker.age if worker else None,
        "heartbeat_age": time.monotonic() - int(record.heartbeat_ns) / 1e9 if record.heartbeat_ns else None,
        "pairs": [pair for pair, owner in enumerate(workers_of(device.segment.rings)) if owner == slot],
        "engine": name_of(Engine, int(record.engine)),
        "code": name_of(Code, int(record.code)),
        "wakeups": int(record.wakeups),
        "polls": {"hits": int(record.poll_hits), "misses": int(record.poll_misses)},
        "polled_seconds": int(record.poll_ns) / 1e9,
        "restarts": {reason.name.lower(): int(record.restarts[reason]) for reason in RestartReason},
    }
