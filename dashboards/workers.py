"""The dashboard of worker processes: what they use and how they work."""

from mpnet.dashboards.board import Board, Row
from mpnet.dashboards.panel import RATE, WORKER, Panel, Query
from mpnet.dashboards.query import BY_WORKER, mean, quantile, sum_rate

_HIT = f'{WORKER},outcome="hit"'

WORKERS = Board(
    "workers",
    "Workers",
    "What the worker processes use and how they work: processor, bursts, rounds, wakeups, restarts.",
    ("instance", "device", "worker"),
    (
        Row(
            "Processes",
            (
                Panel(
                    "Processor time",
                    "1 is one core: such a worker is the bottleneck, unless it polls.",
                    Query(
                        sum_rate(f"{BY_WORKER}, state", "mpnet_worker_cpu_seconds_total", WORKER),
                        "{{device}} {{worker}} {{state}}",
                    ),
                    stacked=True,
                ),
                Panel(
                    "Age of the heartbeat",
                    "Two seconds at most when idle. After five seconds control replaces the worker.",
                    Query(
                        f"(time() - mpnet_worker_heartbeat_timestamp_seconds{{{WORKER}}}) and "
                        f"mpnet_worker_up{{{WORKER}}} == 1",
                        "{{device}} {{worker}}",
                    ),
                    "s",
                ),
                Panel(
                    "Age",
                    "Since the start of the present process: it falls to zero when the worker is replaced.",
                    Query(
                        f"(time() - mpnet_worker_start_time_seconds{{{WORKER}}}) "
                        f"and mpnet_worker_up{{{WORKER}}} == 1",
                        "{{device}} {{worker}}",
                    ),
                    "s",
                ),
                Panel(
                    "Memory",
                    "Resident. Anonymous pages are in part common to all workers, by fork.",
                    Query(f"mpnet_worker_memory_bytes{{{WORKER}}}", "{{device}} {{worker}} {{kind}}"),
                    "bytes",
                ),
                Panel(
                    "Restarts",
                    "Workers replaced within the time shown, by what became of them.",
                    Query(
                        f"sum by ({BY_WORKER}, reason) (increase(mpnet_worker_restarts_total{{{WORKER}}}"
                        "[$__range]))",
                        "{{device}} {{worker}} {{reason}}",
                    ),
                ),
            ),
        ),
        Row(
            "Work",
            (
                Panel(
                    "Frames moved at a time",
                    "Distribution of bursts. 1: the load is light and latency low; 64: the worker is busy.",
                    Query(
                        f"sum by (le) (increase(mpnet_worker_batch_packets_bucket{{{WORKER}}}{RATE}))", "{{le}}"
                    ),
                    kind="heat",
                ),
                Panel(
                    "Mean burst",
                    "Frames moved at a time, on average.",
                    Query(mean(BY_WORKER, "mpnet_worker_batch_packets"), "{{device}} {{worker}}"),
                ),
                Panel(
                    "Round, 99th percentile",
                    "Of a round of bursts over the worker's queues: no frame that comes meanwhile waits longer "
                    "for its turn.",
                    Query(
                        quantile(0.99, BY_WORKER, "mpnet_worker_round_duration_seconds"), "{{device}} {{worker}}"
                    ),
                    "s",
                ),
                Panel(
                    "Mean round",
                    "The same on average.",
                    Query(mean(BY_WORKER, "mpnet_worker_round_duration_seconds"), "{{device}} {{worker}}"),
                    "s",
                ),
                Panel(
                    "Polls that found work",
                    "Of the times the worker looked for work before it slept. Few: polling does not pay.",
                    Query(
                        f"{sum_rate(BY_WORKER, 'mpnet_worker_polls_total', _HIT)} / "
                        f"({sum_rate(BY_WORKER, 'mpnet_worker_polls_total', WORKER)} > 0)",
                        "{{device}} {{worker}}",
                    ),
                    "percentunit",
                ),
                Panel(
                    "Time polled without work",
                    "What polling costs; 1 is one core.",
                    Query(
                        sum_rate(BY_WORKER, "mpnet_worker_polled_seconds_total", WORKER), "{{device}} {{worker}}"
                    ),
                ),
                Panel(
                    "Engine",
                    "How the worker writes to the TAP.",
                    Query(f"mpnet_worker_engine{{{WORKER}}} == 1", "{{device}} {{worker}} {{engine}}"),
                    kind="timeline",
                ),
                Panel(
                    "Code",
                    "What the worker runs: interpreted until the data path is compiled.",
                    Query(f"mpnet_worker_code{{{WORKER}}} == 1", "{{device}} {{worker}} {{code}}"),
                    kind="timeline",
                ),
                Panel(
                    "Wakeups",
                    "Times the worker slept and was woken: by a kick, or by a frame in the TAP.",
                    Query(sum_rate(BY_WORKER, "mpnet_worker_wakeups_total", WORKER), "{{device}} {{worker}}"),
                    "cps",
                ),
                Panel(
                    "Context switches",
                    "Involuntary ones say that something else wants the worker's processor: pin it elsewhere.",
                    Query(
                        sum_rate(f"{BY_WORKER}, kind", "mpnet_worker_context_switches_total", WORKER),
                        "{{device}} {{worker}} {{kind}}",
                    ),
                    "cps",
                ),
            ),
        ),
    ),
)
