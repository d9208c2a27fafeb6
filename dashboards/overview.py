"""The first dashboard: every device at a glance."""

from mpnet.dashboards.board import Board, Row
from mpnet.dashboards.panel import DEVICE, Panel, Query
from mpnet.dashboards.query import BY_DEVICE, both_ways, rate, sum_rate

_NUMBER = 4
"""Columns of a panel that is one number."""
_DROPS = tuple(
    Query(
        f"sum by ({BY_DEVICE}, reason) ({rate(f'mpnet_queue_{way}_drops_total', DEVICE)}) > 0 or "
        f"0 * sum by ({BY_DEVICE}) ({rate(f'mpnet_queue_{way}_drops_total', DEVICE)})",
        f"{{{{device}}}} {way} {{{{reason}}}}",
    )
    for way in ("rx", "tx")
)

OVERVIEW = Board(
    "overview",
    "Overview",
    "Every device at a glance: is it up, how much does it carry, what does it lose, what does that cost.",
    ("instance", "device"),
    (
        Row(
            "Now",
            (
                Panel(
                    "Devices in use",
                    "Devices that a guest's driver runs.",
                    Query(f"sum(mpnet_device_up{{{DEVICE}}})"),
                    kind="number",
                    width=_NUMBER,
                ),
                Panel(
                    "Frames to guests",
                    "All rx queues together.",
                    Query(f"sum({rate('mpnet_queue_rx_packets_total', DEVICE)})"),
                    "pps",
                    "number",
                    _NUMBER,
                ),
                Panel(
                    "Frames from guests",
                    "All tx queues together.",
                    Query(f"sum({rate('mpnet_queue_tx_packets_total', DEVICE)})"),
                    "pps",
                    "number",
                    _NUMBER,
                ),
                Panel(
                    "Drops",
                    "Frames not delivered, for whatever reason, both ways.",
                    Query(
                        f"sum({rate('mpnet_queue_rx_drops_total', DEVICE)}) + "
                        f"sum({rate('mpnet_queue_tx_drops_total', DEVICE)})"
                    ),
                    "pps",
                    "number",
                    _NUMBER,
                    red_above=1,
                ),
                Panel(
                    "Workers missing",
                    "Worker processes there should be and are not.",
                    Query(f"sum(mpnet_device_workers{{{DEVICE}}}) - sum(mpnet_worker_up{{{DEVICE}}})"),
                    kind="number",
                    width=_NUMBER,
                    red_above=1,
                ),
                Panel(
                    "Broken rings",
                    "Rings that stand still because their guest broke the protocol.",
                    Query(f"sum(mpnet_queue_broken{{{DEVICE}}})"),
                    kind="number",
                    width=_NUMBER,
                    red_above=1,
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Frames",
                    "As the guest counts them: rx is what it receives.",
                    both_ways(BY_DEVICE, "packets", DEVICE, "{{device}}"),
                    "pps",
                ),
                Panel(
                    "Throughput",
                    "Bits of the frames, Ethernet headers included.",
                    both_ways(BY_DEVICE, "bytes", DEVICE, "{{device}}", " * 8"),
                    "bps",
                ),
                Panel(
                    "Drops by reason",
                    "Why frames were not delivered; the reasons are in the manual.",
                    _DROPS,
                    "pps",
                ),
                Panel(
                    "Cost of a frame",
                    "Processor time of the workers for each frame moved, rx and tx alike.",
                    Query(
                        f"{sum_rate(BY_DEVICE, 'mpnet_worker_cpu_seconds_total', DEVICE)} / "
                        f"({sum_rate(BY_DEVICE, 'mpnet_worker_batch_packets_sum', DEVICE)} > 0)",
                        "{{device}}",
                    ),
                    "s",
                ),
            ),
        ),
        Row(
            "Means",
            (
                Panel(
                    "Processor time",
                    "Of all workers of a device; 1 is one core.",
                    Query(sum_rate(BY_DEVICE, "mpnet_worker_cpu_seconds_total", DEVICE), "{{device}}"),
                ),
                Panel(
                    "Frames of the guest in one write to the TAP",
                    "What coalescing (gro=on) gains; 1 without it, or where there is nothing to coalesce.",
                    Query(
                        f"{sum_rate(BY_DEVICE, 'mpnet_queue_tx_packets_total', DEVICE)} / "
                        f"({sum_rate(BY_DEVICE, 'mpnet_queue_tx_packets_total', DEVICE)} - "
                        f"{sum_rate(BY_DEVICE, 'mpnet_queue_tx_coalesced_packets_total', DEVICE)} + "
                        f"{sum_rate(BY_DEVICE, 'mpnet_queue_tx_coalesced_frames_total', DEVICE)} > 0)",
                        "{{device}}",
                    ),
                ),
            ),
        ),
    ),
)
