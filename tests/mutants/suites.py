"""Which tests should notice a slip in a file: those of what it does, the quickest first."""

from fnmatch import fnmatch

_RING = ("test_bounds", "test_stepping", "test_hostile_rings", "test_datapath")
_RX = ("test_bounds", "test_refusals", "test_segmentation", "test_stepping", "test_datapath")
_TX = ("test_bounds", "test_refusals", "test_coalesce", "test_datapath")
_WIRE = (
    "test_vhost_user_backend", "test_vhost_user_starts", "test_vhost_user_refusals", "test_vhost_user_frontend",
    "test_vhost_user_framing", "test_vhost_user_sessions", "test_vhost_user_properties", "test_unix_socket",
)  # fmt: skip

SUITES: dict[str, tuple[str, ...]] = {
    "workers/ring.py": _RING,
    "workers/packed.py": _RING,
    "workers/chain.py": ("test_chain", *_RING),
    "workers/rings.py": (
        "test_bounds",
        "test_stepping",
        "test_hostile_rings",
        "test_datapath",
        "test_segmentation",
    ),
    "workers/memory.py": ("test_bounds", "test_hostile_rings", "test_datapath"),
    "workers/receive.py": _RX,
    "workers/window.py": _RX,
    "workers/superframe.py": ("test_bounds", "test_segmentation"),
    "workers/transmit.py": _TX,
    "workers/coalesce.py": ("test_bounds", "test_coalesce"),
    "workers/flow.py": ("test_coalesce",),
    "workers/checksum.py": ("test_bounds", "test_coalesce", "test_segmentation"),
    "workers/send.py": _TX,
    "workers/write.py": ("test_refusals", "test_counters", "test_engine", "test_coalesce", "test_datapath"),
    "workers/writer.py": ("test_engine", "test_datapath"),
    "workers/consume.py": ("test_without_tap",),
    "workers/echo.py": ("test_without_tap", "test_bounds", "test_stepping"),
    "workers/burst.py": ("test_without_tap", "test_stepping"),
    "workers/poll.py": ("test_poll",),
    "workers/watch.py": ("test_poll", "test_datapath"),
    "workers/loop.py": ("test_bounds", "test_poll", "test_datapath", "test_without_tap"),
    "workers/control_queue.py": ("test_bounds", "test_poll"),
    "workers/statistics.py": ("test_counters", "test_bounds", "test_trace"),
    "workers/trace.py": ("test_trace",),
    "workers/worker.py": ("test_datapath", "test_hostile_rings", "test_poll"),
    "mpnet/virtio/split_ring.py": ("test_bounds", "test_guest_driver_parts", "test_datapath"),
    "mpnet/virtio/packed_ring.py": ("test_bounds", "test_guest_driver_parts", "test_datapath"),
    "mpnet/virtio/*.py": ("test_features", "test_config_space", "test_control_commands"),
    "mpnet/vhost_user/*.py": _WIRE,
    "mpnet/segment/trace.py": ("test_trace",),
    "mpnet/segment/*.py": ("test_segment", "test_metrics", "test_management"),
    "control/families.py": ("test_metrics",),
    "control/exposition.py": ("test_metrics",),
    "control/usage.py": ("test_usage",),
    "control/desired.py": ("test_control_desired", "test_control_supervisor"),
    "control/commands.py": ("test_control_commands",),
    "control/supervisor.py": ("test_control_supervisor",),
    "control/worker.py": ("test_control_supervisor",),
    "control/rings.py": ("test_control_session",),
    "control/session.py": ("test_control_session", "test_control_descriptors", "test_control_budget"),
    "control/device.py": ("test_control_session",),
    "control/offer.py": ("test_features", "test_control_session"),
    "control/backoff.py": ("test_control_supervisor",),
}
"""By pattern; the first that fits counts, and a file that none fits is left alone."""


def suite_of(file: str) -> tuple[str, ...]:
    """Names of the test files; empty where slips in ``file`` are not tried."""
    return next((suite for pattern, suite in SUITES.items() if fnmatch(file, pattern)), ())
