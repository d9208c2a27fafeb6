"""The dashboard of front-ends and of the control process."""

from mpnet.dashboards.board import Board, Row
from mpnet.dashboards.panel import DEVICE, Panel, Query
from mpnet.dashboards.query import BY_DEVICE, BY_QUEUE, quantile, rate, sum_rate

_HOST = 'instance=~"$instance"'

GUESTS = Board(
    "guests",
    "Guests and negotiation",
    "How far front-ends have come, what was negotiated, and how control answers.",
    ("instance", "device"),
    (
        Row(
            "Negotiation",
            (
                Panel(
                    "Stage",
                    "listening, connected, features, memory, running: one that stays short of running is stuck.",
                    Query(f"mpnet_device_negotiation{{{DEVICE}}} == 1", "{{device}} {{stage}}"),
                    kind="timeline",
                ),
                Panel(
                    "Front-ends connected",
                    "Within the time shown. Many: one cannot use what is offered and comes again and again.",
                    Query(
                        f"sum by ({BY_DEVICE}) (increase(mpnet_device_connections_total{{{DEVICE}}}[$__range]))",
                        "{{device}}",
                    ),
                ),
                Panel(
                    "Features",
                    "1: negotiated; 0: offered, and the guest does not take it.",
                    Query(
                        f"max by ({BY_DEVICE}, feature) (mpnet_device_feature_enabled{{{DEVICE}}})", "negotiated"
                    ),
                    kind="table",
                ),
                Panel(
                    "Queue pairs and workers",
                    "What the device has, what the guest uses of it, and the processes that serve it.",
                    (
                        Query(f"max by ({BY_DEVICE}) (mpnet_device_queue_pairs{{{DEVICE}}})", "queue pairs"),
                        Query(f"max by ({BY_DEVICE}) (mpnet_device_enabled_queue_pairs{{{DEVICE}}})", "in use"),
                        Query(f"max by ({BY_DEVICE}) (mpnet_device_workers{{{DEVICE}}})", "workers"),
                    ),
                    kind="table",
                ),
                Panel(
                    "Time to answer the front-end",
                    "The 99th percentile of its vhost-user messages since the device began. They come when a "
                    "guest starts, stops or moves, and it waits for them.",
                    Query(
                        f"histogram_quantile(0.99, sum by ({BY_DEVICE}, le) "
                        f"(mpnet_device_message_duration_seconds_bucket{{{DEVICE}}}))",
                        "{{device}}",
                    ),
                    "s",
                ),
                Panel(
                    "Faults",
                    "Times a guest broke a ring, by queue pair and direction.",
                    Query(
                        sum_rate(f"{BY_QUEUE}, direction", "mpnet_queue_faults_total", DEVICE),
                        "{{device}} {{queue}} {{direction}}",
                    ),
                    "cps",
                ),
            ),
        ),
        Row(
            "Control process",
            (
                Panel(
                    "Requests on the management socket",
                    "By method.",
                    Query(
                        "sum by (instance, method) "
                        f"({rate('mpnet_control_request_duration_seconds_count', _HOST)})",
                        "{{method}}",
                    ),
                    "reqps",
                ),
                Panel(
                    "Time to answer requests, 99th percentile",
                    "By method. Only what starts workers may take tenths of a second.",
                    Query(
                        quantile(0.99, "instance, method", "mpnet_control_request_duration_seconds", _HOST),
                        "{{method}}",
                    ),
                    "s",
                ),
                Panel(
                    "Processor time of control",
                    "1 is one core. Packets do not pass through control.",
                    Query(rate("process_cpu_seconds_total", f'{_HOST},job="mpnet"'), "{{instance}}"),
                ),
                Panel(
                    "Versions",
                    "Of what runs where.",
                    Query(
                        'max by (instance, version, python, numba) (mpnet_build_info{instance=~"$instance"})', "1"
                    ),
                    kind="table",
                ),
            ),
        ),
    ),
)
