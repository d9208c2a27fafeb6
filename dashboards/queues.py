"""The dashboard of queue pairs: balance, rings, notifications, offloads."""

from mpnet.dashboards.board import Board, Row
from mpnet.dashboards.panel import QUEUE, Panel, Query
from mpnet.dashboards.query import BY_DEVICE, BY_QUEUE, both_ways, sum_rate

_TX = f'{QUEUE},direction="tx"'


def suppressed(by: str, matchers: str) -> str:
    """Of the notifications that were due, the part that the guest had asked not to get."""
    calls, saved = (
        sum_rate(by, metric, matchers)
        for metric in ("mpnet_queue_calls_total", "mpnet_queue_calls_suppressed_total")
    )
    return f"{saved} / ({saved} + {calls} > 0)"


QUEUES = Board(
    "queues",
    "Queues",
    "How the queue pairs of a device share its load, how full their rings are, and who wakes whom.",
    ("instance", "device", "queue"),
    (
        Row(
            "Traffic",
            (
                Panel(
                    "Frames to the guest",
                    "By queue pair: the host's kernel hashes flows over them.",
                    Query(sum_rate(BY_QUEUE, "mpnet_queue_rx_packets_total", QUEUE), "{{device}} {{queue}}"),
                    "pps",
                    stacked=True,
                ),
                Panel(
                    "Frames from the guest",
                    "By queue pair: the guest chooses.",
                    Query(sum_rate(BY_QUEUE, "mpnet_queue_tx_packets_total", QUEUE), "{{device}} {{queue}}"),
                    "pps",
                    stacked=True,
                ),
                Panel(
                    "Throughput",
                    "Bits of the frames by queue pair.",
                    both_ways(BY_QUEUE, "bytes", QUEUE, "{{device}} {{queue}}", " * 8"),
                    "bps",
                ),
                Panel(
                    "Imbalance",
                    "The busiest queue pair's frames against the mean. 1 is even; at the number of pairs, one "
                    "queue carries all.",
                    Query(
                        f"max by ({BY_DEVICE}) ({sum_rate(BY_QUEUE, 'mpnet_queue_rx_packets_total', QUEUE)} + "
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_tx_packets_total', QUEUE)}) / "
                        f"(avg by ({BY_DEVICE}) ({sum_rate(BY_QUEUE, 'mpnet_queue_rx_packets_total', QUEUE)} + "
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_tx_packets_total', QUEUE)}) > 0)",
                        "{{device}}",
                    ),
                ),
            ),
        ),
        Row(
            "Rings",
            (
                Panel(
                    "Buffers ready in rx rings",
                    "Against the rings' sizes. At 0 the guest is behind, and frames wait in the TAP.",
                    Query(
                        f"mpnet_queue_rx_ring_available_entries{{{QUEUE}}} / "
                        f"(mpnet_queue_rx_ring_entries{{{QUEUE}}} > 0)",
                        "{{device}} {{queue}}",
                    ),
                    "percentunit",
                ),
                Panel(
                    "Waiting for buffers",
                    "Size of the received frame that waits for the guest to give buffers.",
                    Query(f"mpnet_queue_rx_spilled_bytes{{{QUEUE}}}", "{{device}} {{queue}}"),
                    "bytes",
                ),
                Panel(
                    "State",
                    "1: the ring is served.",
                    Query(f"mpnet_queue_running{{{QUEUE}}}", "{{device}} {{queue}} {{direction}}"),
                    kind="timeline",
                    red_below=1,
                ),
                Panel(
                    "Drops",
                    "Frames not delivered, by queue pair and direction.",
                    both_ways(BY_QUEUE, "drops", QUEUE, "{{device}} {{queue}}"),
                    "pps",
                ),
            ),
        ),
        Row(
            "Notifications",
            (
                Panel(
                    "Kicks",
                    "The guest wakes the worker. Few at a high load: one burst follows another.",
                    Query(
                        sum_rate(f"{BY_QUEUE}, direction", "mpnet_queue_kicks_total", QUEUE),
                        "{{device}} {{queue}} {{direction}}",
                    ),
                    "cps",
                ),
                Panel(
                    "Calls",
                    "The worker interrupts the guest.",
                    Query(
                        sum_rate(f"{BY_QUEUE}, direction", "mpnet_queue_calls_total", QUEUE),
                        "{{device}} {{queue}} {{direction}}",
                    ),
                    "cps",
                ),
                Panel(
                    "Calls suppressed",
                    "Of the calls that were due, the part that the guest had asked not to get.",
                    Query(suppressed(f"{BY_QUEUE}, direction", QUEUE), "{{device}} {{queue}} {{direction}}"),
                    "percentunit",
                ),
                Panel(
                    "Frames in a kick",
                    "Frames from the guest for each time it woke the worker.",
                    Query(
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_tx_packets_total', QUEUE)} / "
                        f"({sum_rate(BY_QUEUE, 'mpnet_queue_kicks_total', _TX)} > 0)",
                        "{{device}} {{queue}}",
                    ),
                ),
            ),
        ),
        Row(
            "Offloads",
            (
                Panel(
                    "Frames to be segmented later",
                    "Of all frames: from the guest by the host (tx), to the guest by the guest itself (rx).",
                    tuple(
                        Query(
                            f"{sum_rate(BY_QUEUE, f'mpnet_queue_{way}_gso_packets_total', QUEUE)} / "
                            f"({sum_rate(BY_QUEUE, f'mpnet_queue_{way}_packets_total', QUEUE)} > 0)",
                            f"{{{{device}}}} {{{{queue}}}} {way}",
                        )
                        for way in ("rx", "tx")
                    ),
                    "percentunit",
                ),
                Panel(
                    "Coalesced",
                    "Of the guest's frames, the part that left as a part of a superframe (gro=on).",
                    Query(
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_tx_coalesced_packets_total', QUEUE)} / "
                        f"({sum_rate(BY_QUEUE, 'mpnet_queue_tx_packets_total', QUEUE)} > 0)",
                        "{{device}} {{queue}}",
                    ),
                    "percentunit",
                ),
                Panel(
                    "Segmented",
                    "Of the frames to the guest, the part that mpnet cut from a superframe of the TAP.",
                    Query(
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_rx_segmented_packets_total', QUEUE)} / "
                        f"({sum_rate(BY_QUEUE, 'mpnet_queue_rx_packets_total', QUEUE)} > 0)",
                        "{{device}} {{queue}}",
                    ),
                    "percentunit",
                ),
                Panel(
                    "Frames of a superframe",
                    "How many of the guest's frames went together: coalesced on tx, segmented on rx.",
                    tuple(
                        Query(
                            f"{sum_rate(BY_QUEUE, f'mpnet_queue_{what}_packets_total', QUEUE)} / "
                            f"({sum_rate(BY_QUEUE, f'mpnet_queue_{what}_frames_total', QUEUE)} > 0) or "
                            f"0 * {sum_rate(BY_QUEUE, f'mpnet_queue_{what}_frames_total', QUEUE)}",
                            f"{{{{device}}}} {{{{queue}}}} {what.partition('_')[0]}",
                        )
                        for what in ("tx_coalesced", "rx_segmented")
                    ),
                ),
                Panel(
                    "Headers saved",
                    "By superframes, which have theirs once: what the guest sees more than the TAP.",
                    tuple(
                        Query(
                            f"{sum_rate(BY_QUEUE, f'mpnet_queue_{what}_saved_bytes_total', QUEUE)} * 8",
                            f"{{{{device}}}} {{{{queue}}}} {what.partition('_')[0]}",
                        )
                        for what in ("tx_coalesced", "rx_segmented")
                    ),
                    "bps",
                ),
            ),
        ),
    ),
)
