"""The dashboard of queue pairs: balance, rings, notifications, offloads."""

from mpnet.dashboards.board import Board, Row
from mpnet.dashboards.panel import QUEUE, Panel, Query
from mpnet.dashboards.query import BY_DEVICE, BY_QUEUE, both_ways, sum_rate

_TX = f'{QUEUE},direction="tx"'
_PAIR = "{{device}} {{queue}}"


def suppressed(by: str, matchers: str) -> str:
    """Of the notifications that were due, the part that the guest had asked not to get."""
    calls, saved = (
        sum_rate(by, metric, matchers)
        for metric in ("mpnet_queue_calls_total", "mpnet_queue_calls_suppressed_total")
    )
    return f"{saved} / ({saved} + {calls} > 0)"


def _frames(way: str, direction: str, description: str) -> Panel:
    query = Query(sum_rate(BY_QUEUE, f"mpnet_queue_{direction}_packets_total", QUEUE), _PAIR)
    return Panel(f"Frames {way} the guest", description, query, "pps", stacked=True)


def _ratio(part: str, of: str, legend: str = "") -> Query:
    """One counter's rate in another's, of each queue pair."""
    rates = (sum_rate(BY_QUEUE, f"mpnet_queue_{counter}_total", QUEUE) for counter in (part, of))
    return Query("{} / ({} > 0)".format(*rates), f"{_PAIR}{legend}")


QUEUES = Board(
    "queues",
    "Queues",
    "How the queue pairs of a device share its load, how full their rings are, and who wakes whom.",
    ("instance", "device", "queue"),
    (
        Row(
            "Traffic",
            (
                _frames("to", "rx", "By queue pair: the host's kernel hashes flows over them."),
                _frames("from", "tx", "By queue pair: the guest chooses."),
                Panel(
                    "Throughput",
                    "Bits of the frames by queue pair.",
                    both_ways(BY_QUEUE, "bytes", QUEUE, _PAIR, " * 8"),
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
                        _PAIR,
                    ),
                    "percentunit",
                ),
                Panel(
                    "Waiting for buffers",
                    "Size of the received frame that waits for the guest to give buffers.",
                    Query(f"mpnet_queue_rx_spilled_bytes{{{QUEUE}}}", _PAIR),
                    "bytes",
                ),
                Panel(
                    "State",
                    "1: the ring is served.",
                    Query(f"mpnet_queue_running{{{QUEUE}}}", f"{_PAIR} {{{{direction}}}}"),
                    kind="timeline",
                    red_below=1,
                ),
                Panel(
                    "Worker",
                    "Slot of the worker that serves the queue pair; -1 while none does, as during a move.",
                    Query(f"mpnet_queue_worker{{{QUEUE}}}", _PAIR),
                    kind="timeline",
                    red_below=0,
                ),
                Panel(
                    "Drops",
                    "Frames not delivered, by queue pair and direction.",
                    both_ways(BY_QUEUE, "drops", QUEUE, _PAIR),
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
                        f"{_PAIR} {{{{direction}}}}",
                    ),
                    "cps",
                ),
                Panel(
                    "Calls",
                    "The worker interrupts the guest.",
                    Query(
                        sum_rate(f"{BY_QUEUE}, direction", "mpnet_queue_calls_total", QUEUE),
                        f"{_PAIR} {{{{direction}}}}",
                    ),
                    "cps",
                ),
                Panel(
                    "Calls suppressed",
                    "Of the calls that were due, the part that the guest had asked not to get.",
                    Query(suppressed(f"{BY_QUEUE}, direction", QUEUE), f"{_PAIR} {{{{direction}}}}"),
                    "percentunit",
                ),
                Panel(
                    "Frames in a kick",
                    "Frames from the guest for each time it woke the worker.",
                    Query(
                        f"{sum_rate(BY_QUEUE, 'mpnet_queue_tx_packets_total', QUEUE)} / "
                        f"({sum_rate(BY_QUEUE, 'mpnet_queue_kicks_total', _TX)} > 0)",
                        _PAIR,
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
                    tuple(_ratio(f"{way}_gso_packets", f"{way}_packets", f" {way}") for way in ("rx", "tx")),
                    "percentunit",
                ),
                Panel(
                    "Coalesced",
                    "Of the guest's frames, the part that left as a part of a superframe (gro=on).",
                    _ratio("tx_coalesced_packets", "tx_packets"),
                    "percentunit",
                ),
                Panel(
                    "Segmented",
                    "Of the frames to the guest, the part that mpnet cut from a superframe of the TAP.",
                    _ratio("rx_segmented_packets", "rx_packets"),
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
                            f"{_PAIR} {what.partition('_')[0]}",
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
                            f"{_PAIR} {what.partition('_')[0]}",
                        )
                        for what in ("tx_coalesced", "rx_segmented")
                    ),
                    "bps",
                ),
            ),
        ),
    ),
)
