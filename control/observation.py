"""What commands may have workers tell beyond their counters; it ends with the connection that asked for it."""

from collections.abc import Callable
from typing import Any

from mpnet.control.device import Device
from mpnet.control.management import Handler, when_client_leaves
from mpnet.control.recording import Recording
from mpnet.rpc.management import CaptureParams, TraceParams


def observation_handlers(find: Callable[[str], Device]) -> dict[str, Handler]:
    """Give what answers the methods that begin with ``trace`` and ``capture``.

    Args:
        find: gives a device by its name, or raises ``MpnetError``.
    """

    async def trace_bursts(params: TraceParams) -> Any:
        device = find(params.device)
        when_client_leaves(device.watch_bursts, -1)
        await device.watch_bursts(1)

    async def start_capture(params: CaptureParams) -> Any:
        recording = Recording(find(params.device))
        queues = await recording.start(params)
        when_client_leaves(recording.stop)
        return {"queues": queues}

    return {"trace.bursts": trace_bursts, "capture.start": start_capture}
