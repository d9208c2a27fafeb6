"""A device's rings between its three parties: the vhost-user machine, the workers and the TAP."""

import asyncio
import time
from collections.abc import Iterator, Set

from mpnet.config.device import DeviceConfig
from mpnet.control.budget import Budget
from mpnet.control.desired import RingSetting
from mpnet.control.port import Port
from mpnet.control.supervisor import Supervisor
from mpnet.errors import MpnetError
from mpnet.segment.segment import Segment
from mpnet.vhost_user.backend import Backend
from mpnet.virtio.features import Feature, has


class Rings:
    """Starts, changes and stops rings, and keeps the TAP's queues attached to match.

    A front-end numbers its rings by what it negotiated, so its control queue may be ring 2 of a device with many
    queue pairs; to workers and in the segment the control queue is the last ring at all times.
    """

    def __init__(
        self,
        backend: Backend,
        supervisor: Supervisor,
        tap: Port,
        segment: Segment,
        config: DeviceConfig,
        budget: Budget,
    ) -> None:
        self._budget = budget
        self._config = config
        self._backend = backend
        self._supervisor = supervisor
        self._tap = tap
        self._segment = segment
        self._numbers: dict[int, int] = {}
        self._pairs = 1

    async def start(self, index: int) -> None:
        """Start the front-end's ring ``index``.

        Raises:
            MpnetError: a worker or the TAP refuses; nothing has changed.
        """
        control = self._supervisor.desired.control_ring
        self._numbers[index] = control if index == self._backend.control_ring else index
        try:
            await self._set(index, self._backend.rings[index].base & 0xFFFF)
        except MpnetError:
            del self._numbers[index]
            await self._attach_queues()
            raise
        if self._numbers[index] == control:
            await self._update_enabled()

    async def update(self, index: int) -> None:
        """Serve a started ring as the machine has it now.

        Raises:
            MpnetError: a worker or the TAP refuses; nothing has changed.
        """
        await self._set(index)

    async def stop(self, index: int) -> None:
        """Stop a ring and tell the machine where it was left; one that is not started is stopped already."""
        number = self._numbers.pop(index, None)
        if number is None:
            return
        base = await self._supervisor.stop_ring(number)
        if has(self._backend.features, Feature.RING_PACKED):
            # A packed ring's base has where chains are taken and, above, where they are returned: the same here.
            base |= base << 16
        self._backend.ring_stopped(index, base)
        await self._attach_queues()

    async def stop_unknown(self) -> None:
        """Stop rings that the machine does not have as started, without telling it."""
        for index in [index for index in self._numbers if not self._backend.rings[index].started]:
            await self._supervisor.stop_ring(self._numbers.pop(index))
        await self._attach_queues()

    async def use_pairs(self, pairs: int) -> None:
        """Serve the first ``pairs`` queue pairs only, where the driver's control queue is served here.

        Raises:
            MpnetError: a worker or the TAP refuses.
        """
        self._pairs = pairs
        await self._update_enabled()

    async def _update_enabled(self) -> None:
        for index, number in list(self._numbers.items()):
            if self._supervisor.desired.rings[number].enabled != self._enabled(index):
                await self._set(index)

    def _enabled(self, index: int) -> bool:
        """Whether the front-end enables the ring, and the driver uses its pair as far as it says so here."""
        number = self._numbers[index]
        control = self._supervisor.desired.control_ring
        spoken_for = number == control or control not in self._numbers.values()
        return self._backend.rings[index].enabled and (spoken_for or number // 2 < self._pairs)

    async def _set(self, index: int, base: int | None = None) -> None:
        setting = self._setting(index, base)
        if setting.enabled and setting.number in self._rx_numbers():
            # Before the worker reads: a detached queue is an error to it.
            await self._switch({setting.number // 2} - self._tap.attached, set())
        await self._supervisor.set_ring(setting)
        await self._attach_queues()

    def _setting(self, index: int, base: int | None) -> RingSetting:
        ring = self._backend.rings[index]
        return RingSetting(
            number=self._numbers[index],
            size=ring.size,
            addresses=(ring.descriptor_address, ring.avail_address, ring.used_address),
            features=self._backend.features,
            enabled=self._enabled(index),
            fds=(ring.kick_fd, ring.call_fd, ring.err_fd),
            coalesce=self._config.gro,
            segment=self._config.gso,
            base=base,
        )

    def _rx_numbers(self) -> range:
        return range(0, self._supervisor.desired.control_ring, 2)

    def _receiving(self) -> Iterator[int]:
        """Queue pairs whose rx ring is started and enabled."""
        rings = self._supervisor.desired.rings
        return (number // 2 for number in self._rx_numbers() if number in rings and rings[number].enabled)

    async def _attach_queues(self) -> None:
        """Keep a queue attached to the TAP exactly while its rx ring is started and enabled.

        The kernel hashes flows over all attached queues: those in a queue nobody reads would be lost.
        """
        receiving = set(self._receiving())
        attached = self._tap.attached
        await self._switch(receiving - attached, attached - receiving)
        self._segment.header.enabled_pairs = len(receiving)

    async def _switch(self, attach: Set[int], detach: Set[int]) -> None:
        """Attach and detach queues, beside the event loop: each waits for what the kernel's network is at.

        That holds up the whole host's network configuration, so it counts as if it held the loop.
        """
        if not attach and not detach:
            return
        begun = time.monotonic()
        try:
            await asyncio.to_thread(self._switch_now, attach, detach)
        finally:
            self._budget.spend(time.monotonic() - begun)

    def _switch_now(self, attach: Set[int], detach: Set[int]) -> None:
        for pair in attach:
            self._tap.attach(pair)
        for pair in detach:
            self._tap.detach(pair)
