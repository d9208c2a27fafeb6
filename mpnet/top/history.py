"""The last minutes of each queue pair, as a line of blocks."""

from collections import deque
from collections.abc import Sequence

from mpnet.top.rates import Snapshot

LENGTH = 120
"""Samples that are kept."""
_BLOCKS = "▁▂▃▄▅▆▇█"


class History:
    """Packets a second of each queue pair, sample by sample."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], deque[float]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Remember a snapshot; queue pairs that are gone are forgotten."""
        queues = {(queue.device, queue.queue): queue for device in snapshot.devices for queue in device.queues}
        self._samples = {key: self._samples.get(key, deque(maxlen=LENGTH)) for key in queues}
        for key, queue in queues.items():
            self._samples[key].append(queue.packets)

    def line(self, device: str, queue: int, width: int) -> str:
        """The last ``width`` samples as blocks, the newest at the right."""
        samples = list(self._samples.get((device, queue), ()))[-width:]
        return sparkline(samples).rjust(width)


def sparkline(samples: Sequence[float]) -> str:
    """A block a sample, the highest of them full; the lowest block is for less than an eighth of it."""
    highest = max(samples, default=0.0)
    if highest <= 0:
        return _BLOCKS[0] * len(samples)
    return "".join(_BLOCKS[min(int(len(_BLOCKS) * sample / highest), len(_BLOCKS) - 1)] for sample in samples)
