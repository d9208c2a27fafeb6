"""A superframe of the TAP on its way to a driver that does not take its kind: segment after segment.

The kernel gives whole what the device has told it to (TUNSETOFFLOAD). Here it becomes the frames that the host's
own segmentation would have made of it: lengths, identification, sequence number, flags, checksums. A superframe
lies in the queue pair's spill while it is cut up. Its headers are the kernel's; their lengths are checked all the
same.
"""

from typing import Any

from mpnet.jit.compile import compiled, inlined
from mpnet.jit.memory import copy, load_u8, load_u16, store_u8, store_u16, store_u32
from mpnet.virtio.net_header import (
    BYTES,
    CSUM_OFFSET,
    CSUM_START,
    F_NEEDS_CSUM,
    FLAGS,
    GSO_ECN,
    GSO_SIZE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_TYPE,
    GSO_UDP_L4,
    NUM_BUFFERS,
)
from mpnet.workers.chain import scatter
from mpnet.workers.checksum import fold, load_be16, load_be32, store_be16, sum_bytes
from mpnet.workers.flow import TCP_FIN, TCP_FLAGS, TCP_HEADER_BYTES, TCP_PSH, UDP_HEADER_BYTES
from mpnet.workers.state import TEMPLATE_BYTES, Context

_ETHERNET_BYTES = 14
_TAG_BYTES = 4
_MOST_TAGS = 7
"""As many as the kernel segments behind (Linux, VLAN_MAX_DEPTH, of which it takes one less)."""
_TAG = 0x8100
_SERVICE_TAG = 0x88A8
_IPV4 = 0x0800
_IPV6 = 0x86DD
_IPV4_BYTES = 20
_IPV6_BYTES = 40
_UDP_CHECKSUM = 6
_TCP_CHECKSUM = 16
_TCP_CWR = 0x80
_KINDS = 8


@inlined
def goes_whole(whole: int, gso_type: int) -> bool:
    """Whether a driver takes a frame as the TAP gives it.

    Args:
        whole: bit N for GSO type N, and GSO_ECN itself, as the driver takes it.
        gso_type: of the frame's virtio-net header.
    """
    kind = gso_type & ~GSO_ECN
    # What the kernel does not know it does not give.
    return bool(kind >= _KINDS or (whole >> kind & 1 and gso_type & GSO_ECN & ~whole == 0))


@compiled
def open_superframe(ctx: Context, index: int) -> bool:
    """Look at the superframe in the spill; False where it is none that can be segmented."""
    ring = ctx.rings[index]
    packet = ctx.superframe[0]
    header = ring.spill
    start = header + ring.header_bytes
    octets = ctx.shared[index].spilled - ring.header_bytes
    packet.gso_size = load_u16(header + GSO_SIZE)
    packet.transport = load_u16(header + CSUM_START)
    kind = load_u8(header + GSO_TYPE) & ~GSO_ECN
    packet.tcp = int(kind in (GSO_TCPV4, GSO_TCPV6))
    asked = load_u8(header + FLAGS) & F_NEEDS_CSUM and load_u16(header + CSUM_OFFSET) == _checksum_at(packet)
    if not asked or packet.gso_size == 0 or not (packet.tcp or kind == GSO_UDP_L4):
        return False
    if not _find_network(packet, start, octets) or not _find_payload(packet, start, octets):
        return False
    if ring.header_bytes + packet.headers > TEMPLATE_BYTES:
        return False
    _make_template(ctx, index, start, octets)
    packet.known = 1
    return True


@compiled
def _find_payload(packet: Any, start: int, octets: int) -> bool:
    """Find what is behind the transport header, of which there must be something."""
    least = TCP_HEADER_BYTES if packet.tcp else UDP_HEADER_BYTES
    if packet.transport + least >= octets:
        return False
    size = load_u8(start + packet.transport + 12) >> 4 << 2 if packet.tcp else least
    packet.headers = packet.transport + size
    packet.payload = octets - packet.headers
    return bool(size >= least and packet.payload > 0)


@compiled
def _find_network(packet: Any, start: int, octets: int) -> bool:
    """Find the IP header behind Ethernet's and its tags, ending where the transport's begins."""
    network = _ETHERNET_BYTES
    if packet.transport > octets or packet.transport < network + _IPV4_BYTES:
        return False
    ethertype = load_be16(start + 12)
    for _ in range(_MOST_TAGS):
        if ethertype in (_TAG, _SERVICE_TAG):
            ethertype = load_be16(start + network + 2)
            network += _TAG_BYTES
    packet.network = network
    packet.ipv6 = int(ethertype == _IPV6)
    if packet.ipv6:
        # Extension headers may stand in between.
        return bool(packet.transport >= network + _IPV6_BYTES)
    size = (load_u8(start + network) & 0xF) << 2
    return bool(ethertype == _IPV4 and size >= _IPV4_BYTES and packet.transport == network + size)


@compiled
def _make_template(ctx: Context, index: int, start: int, octets: int) -> None:
    """Copy the headers and take out of the copy, or note, all that differs from segment to segment."""
    ring = ctx.rings[index]
    packet = ctx.superframe[0]
    store_u32(packet.template, 0)
    store_u32(packet.template + 4, 0)
    store_u32(packet.template + 8, 0)
    if ring.offloads:
        store_u8(packet.template + FLAGS, F_NEEDS_CSUM)
        store_u16(packet.template + CSUM_START, packet.transport)
        store_u16(packet.template + CSUM_OFFSET, _checksum_at(packet))
    frame = packet.template + ring.header_bytes
    copy(frame, start, packet.headers)
    if not packet.ipv6:
        network = frame + packet.network
        packet.identification = load_be16(network + 4)
        store_u32(network + 2, 0)
        store_u16(network + 10, 0)
        packet.network_sum = sum_bytes(network, packet.transport - packet.network)
    transport = frame + packet.transport
    # What is there sums up the pseudo-header with the whole's length, which is taken out again.
    partial = load_be16(transport + _checksum_at(packet))
    packet.partial = fold(partial + (0xFFFF ^ fold(octets - packet.transport)))
    if packet.tcp:
        packet.sequence = load_be32(transport + 4)
        packet.tcp_flags = load_u8(transport + TCP_FLAGS)


@inlined
def _checksum_at(packet: Any) -> int:
    return _TCP_CHECKSUM if packet.tcp else _UDP_CHECKSUM


@inlined
def segment_bytes(ctx: Context, done: int) -> int:
    """Payload of the segment that begins ``done`` bytes into the superframe's."""
    packet = ctx.superframe[0]
    return int(min(packet.gso_size, packet.payload - done))


@inlined
def write_segment(ctx: Context, index: int, begin: int, buffers: int, done: int) -> None:
    """Write a segment to the guest's buffers from slot ``begin`` on, which hold it.

    Args:
        ctx: the worker's context.
        index: of the rx ring.
        begin: the first slot.
        buffers: chains it takes.
        done: bytes of the superframe's payload before it.
    """
    ring = ctx.rings[index]
    packet = ctx.superframe[0]
    size = segment_bytes(ctx, done)
    headers = ring.header_bytes + packet.headers
    frame = packet.template + ring.header_bytes
    if ring.header_bytes == BYTES:
        store_u16(packet.template + NUM_BUFFERS, buffers)
    _finish_network(packet, frame + packet.network, done, packet.headers - packet.network + size)
    _finish_transport(packet, frame + packet.transport, done, packet.headers - packet.transport + size)
    payload = ring.spill + headers + done
    if not ring.offloads:
        offset = _checksum_at(packet)
        total = finished_checksum(frame, packet.transport, offset, packet.headers, payload, size)
        store_be16(frame + packet.transport + offset, total)
    scatter(ctx, begin, 0, packet.template, headers)
    scatter(ctx, begin, headers, payload, size)


@inlined
def _finish_network(packet: Any, network: int, done: int, length: int) -> None:
    """Set the length of a segment's IP packet, header included, and IPv4's identification and checksum."""
    if packet.ipv6:
        store_be16(network + 4, length - _IPV6_BYTES)
        return
    identification = (packet.identification + done // packet.gso_size) & 0xFFFF
    store_be16(network + 2, length)
    store_be16(network + 4, identification)
    store_be16(network + 10, fold(packet.network_sum + length + identification) ^ 0xFFFF)


@inlined
def _finish_transport(packet: Any, transport: int, done: int, length: int) -> None:
    """Set what a segment's transport header has of its own, its checksum that of the pseudo-header so far."""
    store_be16(transport + _checksum_at(packet), fold(packet.partial + length))
    if not packet.tcp:
        store_be16(transport + 4, length)
        return
    sequence = packet.sequence + done
    store_be16(transport + 4, sequence >> 16)
    store_be16(transport + 6, sequence)
    flags = packet.tcp_flags
    if done:
        flags &= ~_TCP_CWR
    if done + packet.gso_size < packet.payload:
        flags &= ~(TCP_PSH | TCP_FIN)
    store_u8(transport + TCP_FLAGS, flags)


@compiled
def finished_checksum(frame: int, start: int, offset: int, headers: int, payload: int, size: int) -> int:
    """What a partial checksum becomes.

    Args:
        frame: address of the frame, as far as it is not payload.
        start: where in it summing starts.
        offset: where behind that the checksum is.
        headers: bytes of the frame that are there, an even number behind ``start`` if there is more.
        payload: address of the rest.
        size: bytes of the rest.
    """
    total = fold(sum_bytes(frame + start, headers - start) + sum_bytes(payload, size)) ^ 0xFFFF
    # UDP's zero means that there is none.
    return 0xFFFF if total == 0 and offset == _UDP_CHECKSUM else total


@compiled
def complete_frame(ctx: Context, index: int, begin: int, length: int) -> None:
    """Write the spill's frame of ``length`` bytes, header included, for a driver without GUEST_CSUM.

    Its checksum is finished, where that was left to the receiver, and its header says so. The spill stays as it
    is: should this worker die, the next one begins with it again.
    """
    ring = ctx.rings[index]
    header = ctx.worker[0].header
    frame = ring.spill + ring.header_bytes
    octets = length - ring.header_bytes
    start = load_u16(ring.spill + CSUM_START)
    offset = load_u16(ring.spill + CSUM_OFFSET)
    copy(header, ring.spill, ring.header_bytes)
    store_u8(header + FLAGS, 0)
    store_u32(header + CSUM_START, 0)
    scatter(ctx, begin, 0, header, ring.header_bytes)
    scatter(ctx, begin, ring.header_bytes, frame, octets)
    if load_u8(ring.spill + FLAGS) & F_NEEDS_CSUM and start + offset + 2 <= octets:
        store_be16(header, finished_checksum(frame, start, offset, octets, 0, 0))
        scatter(ctx, begin, ring.header_bytes + start + offset, header, 2)
