"""Requests about guest memory. Each handler changes the draft it is given and returns the effects, or refuses.

Memory changes under live rings: QEMU plugs and unplugs RAM while the guest runs. A ring that stays mapped goes
on. One whose memory goes away is stopped first and started again where it was once a later request brings the
memory back: QEMU replaces a region by removing it and adding its successor, two requests.
"""

from mpnet.vhost_user.effects import Effect, MemoryRegion, SetMemory, StopRing
from mpnet.vhost_user.memory import check_overlaps, check_region, describe, same_place
from mpnet.vhost_user.messages import (
    MAX_TABLE_REGIONS,
    U64,
    Message,
    RegionDescription,
    unpack_regions,
    unpack_single_region,
)
from mpnet.vhost_user.ring_checks import unmapped_part
from mpnet.vhost_user.ring_requests import start
from mpnet.vhost_user.state import RefusedError, State


def set_mem_table(draft: State, message: Message) -> list[Effect]:
    """Take a whole table, with one file descriptor a region, in place of the last."""
    told = unpack_regions(message.payload)
    if len(told) > MAX_TABLE_REGIONS:
        raise RefusedError(f"{len(told)} memory regions, expected at most {MAX_TABLE_REGIONS}")
    if len(message.fds) != len(told):
        raise RefusedError(
            f"{len(message.fds)} file descriptors came with {len(told)} memory regions;"
            " guest memory must be a shared file (QEMU: memory-backend-memfd or -file with share=on)"
        )
    for region in told:
        check_region(region)
    check_overlaps(told)
    regions = tuple(_with_fd(region, fd) for region, fd in zip(told, message.fds, strict=True))
    return _change(draft, regions)


def add_mem_reg(draft: State, message: Message) -> list[Effect]:
    """Add one region.

    One that is there already is no error: QEMU before 8.0 sends each region once a queue pair.
    """
    told = unpack_single_region(message.payload)
    if len(message.fds) != 1:
        raise RefusedError(f"{describe(told)}: {len(message.fds)} file descriptors came, expected 1")
    check_region(told)
    if any(same_place(region, told) and region.offset == told.offset for region in draft.regions):
        return []
    check_overlaps((*draft.regions, told))
    if len(draft.regions) >= draft.offer.max_memory_slots:
        raise RefusedError(f"{describe(told)}: all {draft.offer.max_memory_slots} memory slots are in use")
    return _change(draft, (*draft.regions, _with_fd(told, message.fds[0])))


def rem_mem_reg(draft: State, message: Message) -> list[Effect]:
    """Remove the region with this guest address, user address and size; the offset is not compared.

    One that is not there is no error, for the same reason as in ``add_mem_reg``.
    """
    told = unpack_single_region(message.payload)
    kept = tuple(region for region in draft.regions if not same_place(region, told))
    return _change(draft, kept) if len(kept) < len(draft.regions) else []


def max_mem_slots_reply(state: State, _message: Message) -> bytes:
    """Answer GET_MAX_MEM_SLOTS."""
    return U64(state.offer.max_memory_slots).pack()


def _with_fd(region: RegionDescription, fd: int) -> MemoryRegion:
    return MemoryRegion(region.guest_address, region.size, region.user_address, region.offset, fd)


def _change(draft: State, regions: tuple[MemoryRegion, ...]) -> list[Effect]:
    """Put ``regions`` in place: stop rings that lose their memory, start those that find it again."""
    draft.regions = regions
    stops: list[Effect] = []
    starts: list[Effect] = []
    for ring in draft.rings:
        if not (ring.started or ring.startable):
            continue
        mapped = unmapped_part(ring, regions, packed=draft.packed) is None
        if ring.started and not mapped:
            ring.started = False
            stops.append(StopRing(ring.index))
        elif mapped and not ring.started:
            starts.append(start(draft, ring))
    return [*stops, SetMemory(regions), *starts]
