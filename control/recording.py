"""One capture of a device's frames, from the request for it to the end of the connection that asked."""

import asyncio
import os

from mpnet.control.device import Device
from mpnet.errors import MpnetError
from mpnet.rpc.management import CaptureParams
from mpnet.rpc.worker import SetCapture
from mpnet.segment import capture
from mpnet.segment.capture import Capture
from mpnet.segment.trace import Kind


class Recording:
    """Frames of a device on their way to one reader.

    Args:
        device: whose frames.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._fd = -1

    async def start(self, params: CaptureParams) -> list[int]:
        """Make the shared memory and have the workers fill it; returns the queue pairs that are captured.

        Raises:
            MpnetError: somebody captures the device already, a parameter is out of range, or memory is short.
        """
        device = self._device
        pairs = device.config.queue_pairs
        if params.queue is not None and not 0 <= params.queue < pairs:
            raise MpnetError(f"device {params.device!r} has no queue {params.queue}, expected 0 to {pairs - 1}")
        if device.supervisor.desired.capture:
            raise MpnetError(
                f"device {params.device!r} is being captured already", "one 'mpnet capture' a device at a time"
            )
        device.supervisor.desired.capture = (SetCapture(), [])  # at once: nobody else begins meanwhile
        try:
            return await self._start(params, pairs)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, params: CaptureParams, pairs: int) -> list[int]:
        device = self._device
        made, self._fd = Capture.create(params.device, pairs, params.lane_bytes, params.snaplen)
        queues = [params.queue] if params.queue is not None else list(range(pairs))
        parts = {"rx": (0,), "tx": (1,), "both": (0, 1)}[params.direction]
        rings = [2 * queue + part for queue in queues for part in parts]
        device.trace(Kind.CAPTURE_STARTED, len(rings))
        device.log.info("capture started", queues=queues, direction=params.direction)
        # Gigabytes, perhaps, so in a thread; with a descriptor of its own, as nobody may wait for its end.
        await asyncio.to_thread(_reserve, made, os.dup(self._fd), queues)
        await device.supervisor.capture((SetCapture(rings, made.lane_bytes, made.snaplen), [self._fd]))
        return queues

    async def stop(self) -> None:
        """Have the workers let go of it and remove it."""
        device = self._device
        await device.supervisor.capture(None)
        if self._fd < 0:
            return
        os.close(self._fd)
        capture.unlink(device.config.id)
        device.trace(Kind.CAPTURE_STOPPED)
        device.log.info("capture ended")


def _reserve(made: Capture, fd: int, queues: list[int]) -> None:
    try:
        made.reserve(fd, queues)
    finally:
        os.close(fd)
