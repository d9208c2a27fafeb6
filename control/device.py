"""One virtio-net device: its TAP, segment, workers and vhost-user machine, and what an effect does to them."""

import asyncio
import os
import select
from dataclasses import replace
from typing import Any

from mpnet.config.device import MAX_MTU, MIN_MTU, DeviceConfig
from mpnet.control import commands, leftovers
from mpnet.control.desired import RingSetting
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.control.offer import offered_features
from mpnet.control.peer import Peer
from mpnet.control.supervisor import Supervisor, Surroundings
from mpnet.control.worker import Limits
from mpnet.errors import ConfigError, MpnetError
from mpnet.rpc.worker import ControlCommand, RingBroken
from mpnet.segment.layout import Fault
from mpnet.segment.segment import Segment
from mpnet.tap.tap import Tap
from mpnet.vhost_user import effects
from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.channel import config_change
from mpnet.vhost_user.effects import Effect
from mpnet.vhost_user.state import Offer
from mpnet.virtio.config_space import MAC_SIZE, LinkStatus, NetConfig, parse_mac
from mpnet.virtio.features import Feature, has, names


class Device:
    """A device of this control process.

    ``await start()`` first. A session then gives it the effects of its messages; the management socket gives it
    ``set``, ``scale`` and ``describe``.

    Args:
        config: what was asked for.
        launcher: what starts workers.
        limits: how long to wait for workers.
    """

    segment: Segment
    tap: Tap
    supervisor: Supervisor
    backend: Backend

    def __init__(self, config: DeviceConfig, launcher: Launcher, limits: Limits | None = None) -> None:
        self.config = config
        self.log = get_log(device=config.id)
        self.settings = commands.Settings(config.mac_octets, config.queue_pairs)
        self.link_up = True
        self.peer: Peer | None = None
        self.guest_mtu = 0
        self._launcher = launcher
        self._limits = limits or Limits()
        self._mtu = config.mtu
        self._offered_pairs = config.queue_pairs
        self._tap_offloads = 0
        self._numbers: dict[int, int] = {}
        self._channel_fd: int | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take segment and TAP, and start the workers.

        Raises:
            MpnetError: another process serves the device, the TAP cannot be used, a worker cannot start.
        """
        config = self.config
        _check_cpus(config.cpus)
        await asyncio.to_thread(leftovers.clear, config.id, self.log)
        tap = await asyncio.to_thread(Tap.open, config.tap, config.queue_pairs, create=config.create)
        try:
            if config.mtu and tap.mtu != config.mtu:
                tap.set_mtu(config.mtu)
            self.segment = Segment.create(config.id, config.queue_pairs)
        except MpnetError:
            tap.close()
            raise
        self.tap = tap
        if not tap.up:
            self.log.warning("TAP is down", tap=tap.name, remedy=f"ip link set {tap.name} up")
        self._tap_offloads = tap.offloads()
        self.backend = Backend(self._offer(), self._net_config().pack())
        self.segment.header.offered_features = self.backend.offer.all_features
        around = Surroundings(
            self.segment, self._launcher, self.log, config.cpus, self._worker_reported, self._limits
        )
        self.supervisor = Supervisor(tap.fds, around)
        try:
            await self.supervisor.start(config.worker_count)
        except BaseException:
            self._give_back()
            raise

    async def stop(self) -> None:
        """Stop the workers and give back segment and TAP; the session has ended before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.supervisor.stop()
        self._give_back()

    def _give_back(self) -> None:
        self.segment.unlink()
        self.tap.close()

    async def perform(self, effect: Effect) -> None:
        """Do what the vhost-user machine asks of the device; nothing else happens to it meanwhile.

        Raises:
            MpnetError: it cannot be done; nothing has changed.
        """
        async with self._lock:
            await self._perform(effect)

    async def _perform(self, effect: Effect) -> None:  # noqa: C901 - one line an effect
        match effect:
            case effects.SetFeatures(features):
                self._set_features(features)
            case effects.SetMemory(regions):
                await self.supervisor.set_memory(regions)
            case effects.StartRing(index):
                await self._start_ring(index)
            case effects.UpdateRing(index):
                await self._set_ring(index)
            case effects.StopRing(index):
                await self._stop_ring(index)
            case effects.SetMtu(mtu):
                self.guest_mtu = mtu
            case effects.SetStatus(status):
                self.segment.header.status = status
                if status == 0:
                    self._reset_settings()
            case effects.Reset():
                self._reset()
            case effects.WriteConfig(offset, data):
                self._write_config(offset, data)
            case effects.SetBackendChannel(fd):
                self._channel_fd = fd
            case _:
                raise TypeError(f"{effect} is the session's")

    async def forget_session(self) -> None:
        """Unmap guest memory and forget what was negotiated, after the session's rings have stopped."""
        async with self._lock:
            self.guest_mtu = 0
            self.peer = None
            try:
                await self.supervisor.set_memory(())
                self._reset()
            except MpnetError as error:
                self.log.error("session not wholly forgotten", problem=str(error))

    def renew_offer(self) -> None:
        """Offer what ``set`` has changed to the next front-end; the machine takes it up once disconnected."""
        self.backend.offer = self._offer()
        self.settings = replace(self.settings, max_pairs=self._offered_pairs)
        self.segment.header.offered_features = self.backend.offer.all_features
        self.backend.set_config(self._net_config().pack())

    def _offer(self) -> Offer:
        return Offer(offered_features(self._tap_offloads, self._offered_pairs), self._offered_pairs)

    # Rings.

    async def _start_ring(self, index: int) -> None:
        number = self.supervisor.desired.control_ring if index == self.backend.control_ring else index
        self._numbers[index] = number
        try:
            await self._set_ring(index, self.backend.rings[index].base & 0xFFFF)
        except MpnetError:
            del self._numbers[index]
            self._attach_queues()
            raise
        if number == self.supervisor.desired.control_ring:
            await self._update_pairs()

    async def _set_ring(self, index: int, base: int | None = None) -> None:
        setting = self._setting(index, base)
        # The worker must not find the queue detached while it reads from it.
        if setting.enabled and setting.number < self.supervisor.desired.control_ring and setting.number % 2 == 0:
            self.tap.attach(setting.number // 2)
        await self.supervisor.set_ring(setting)
        self._attach_queues()

    async def _stop_ring(self, index: int) -> None:
        number = self._numbers.pop(index)
        base = await self.supervisor.stop_ring(number)
        self.backend.ring_stopped(index, base)
        self._attach_queues()

    def _setting(self, index: int, base: int | None) -> RingSetting:
        ring = self.backend.rings[index]
        number = self._numbers[index]
        return RingSetting(
            number=number,
            size=ring.size,
            addresses=(ring.descriptor_address, ring.avail_address, ring.used_address),
            features=self.backend.features,
            enabled=ring.enabled and self._in_use(number),
            fds=(ring.kick_fd, ring.call_fd, ring.err_fd),
            base=base,
        )

    def _in_use(self, number: int) -> bool:
        """Whether the driver uses the ring's pair: it says so here where its control queue is served here."""
        control = self.supervisor.desired.control_ring
        if number == control or control not in self._numbers.values():
            return True
        return number // 2 < self.settings.pairs

    async def _update_pairs(self) -> None:
        """Enable and disable rings as the driver's number of queue pairs has it."""
        for index, number in list(self._numbers.items()):
            wanted = self.backend.rings[index].enabled and self._in_use(number)
            if self.supervisor.desired.rings[number].enabled != wanted:
                await self._set_ring(index)

    def _attach_queues(self) -> None:
        """Keep a queue attached to the TAP exactly while its rx ring is started and enabled."""
        rings = self.supervisor.desired.rings
        for pair in range(self.config.queue_pairs):
            rx = rings.get(2 * pair)
            if rx and rx.enabled:
                self.tap.attach(pair)
            else:
                self.tap.detach(pair)
        enabled = sum(
            1 for pair in range(self.config.queue_pairs) if 2 * pair in rings and rings[2 * pair].enabled
        )
        self.segment.header.enabled_pairs = enabled

    # What a driver says about the device.

    def _set_features(self, features: int) -> None:
        self.tap.set_offloads(features)
        self.segment.header.features = features
        self.log.info("features negotiated", features=" ".join(names(features)))

    def _reset(self) -> None:
        self.tap.set_offloads(0)
        self.segment.header.features = 0
        self.segment.header.status = 0
        self._reset_settings()

    def _reset_settings(self) -> None:
        self.settings = replace(self.settings, pairs=1, announce=False)

    def _write_config(self, offset: int, data: bytes) -> None:
        if offset < MAC_SIZE:
            mac = bytearray(self.settings.mac)
            mac[offset : offset + len(data)] = data
            self.settings = replace(self.settings, mac=bytes(mac[:MAC_SIZE]))
            self.backend.set_config(self._net_config().pack())

    def _worker_reported(self, report: RingBroken | ControlCommand) -> None:
        if isinstance(report, RingBroken):
            fault = Fault(report.fault).name if report.fault in list(Fault) else str(report.fault)
            self.log.error("the guest broke a ring", queue=report.index, fault=fault.lower())
            return
        task = asyncio.create_task(self._execute(report.data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, data: bytes) -> None:
        """Carry out a command of the control queue and answer it."""
        async with self._lock:
            outcome = commands.execute(data, self.backend.features, self.settings)
            if outcome.refusal:
                self.log.warning("control command refused", problem=outcome.refusal)
            self.settings = outcome.settings
            try:
                await self._update_pairs()
            except MpnetError as error:
                self.log.error("control command failed", problem=str(error))
            self.backend.set_config(self._net_config().pack())
            await self.supervisor.complete_command(outcome.ack)

    # What the host says about the device.

    @property
    def mtu(self) -> int:
        """The MTU the guest is told: the one asked for, else the TAP's."""
        return self._mtu or self.tap.mtu

    @property
    def offered_pairs(self) -> int:
        """Queue pairs offered from the next negotiation on."""
        return self._offered_pairs

    def _net_config(self) -> NetConfig:
        status = LinkStatus.LINK_UP if self.link_up else LinkStatus(0)
        if self.settings.announce:
            status |= LinkStatus.ANNOUNCE
        return NetConfig(self.settings.mac, status, max_virtqueue_pairs=self.settings.max_pairs, mtu=self.mtu)

    async def set(self, name: str, value: Any) -> None:
        """Change the device while it runs.

        Args:
            name: "combined" (queue pairs offered from the next negotiation on), "mtu", "mac" or "link".
            value: a number, a number, an address, "up" or "down"; numbers may be text.

        Raises:
            MpnetError: an unknown name, or a value that cannot be used.
        """
        changes = {
            "combined": self._set_combined,
            "mtu": self._change_mtu,
            "mac": self._change_mac,
            "link": self._change_link,
        }
        if name not in changes:
            raise ConfigError(f"there is no setting {name!r}, expected one of {', '.join(changes)}")
        async with self._lock:
            changes[name](value)
            self._config_changed()
        self.log.info("device changed", setting=name, value=value)

    async def scale(self, workers: int) -> None:
        """Share the queue pairs among ``workers`` processes, while packets flow."""
        async with self._lock:
            await self.supervisor.scale(workers)

    def _set_combined(self, value: Any) -> None:
        self._offered_pairs = _number("combined", value, 1, self.config.queue_pairs)
        if self.peer is None:
            self.renew_offer()
            self.backend.disconnected()

    def _change_mtu(self, value: Any) -> None:
        mtu = _number("mtu", value, MIN_MTU, MAX_MTU)
        self.tap.set_mtu(mtu)
        self._mtu = mtu

    def _change_mac(self, value: Any) -> None:
        self.settings = replace(self.settings, mac=parse_mac(str(value)))

    def _change_link(self, value: Any) -> None:
        if value not in {"up", "down"}:
            raise ConfigError(f"link is {value!r}, expected up or down")
        up = value == "up"
        self.tap.set_carrier(up=up)
        announces = has(self.backend.features, Feature.GUEST_ANNOUNCE)
        # Behind a link that comes up others may have learnt another place for the guest (VIRTIO 5.1.6.5.4).
        self.settings = replace(self.settings, announce=up and not self.link_up and announces)
        self.link_up = up

    def _config_changed(self) -> None:
        """Have the driver read the configuration space again, where the front-end passes that on."""
        self.backend.set_config(self._net_config().pack())
        if self._channel_fd is None:
            return
        # A front-end that does not read its channel must not hold control up.
        _, writable, _ = select.select([], [self._channel_fd], [], 0)
        try:
            if writable:
                os.write(self._channel_fd, config_change())
        except OSError as error:
            self.log.warning("config change not told to the front-end", problem=error.strerror)


def _number(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is {value!r}, expected a number from {low} to {high}") from None
    if not low <= number <= high:
        raise ConfigError(f"{name} is {number}, expected {low} to {high}")
    return number


def _check_cpus(cpus: tuple[int, ...]) -> None:
    allowed = os.sched_getaffinity(0)
    missing = sorted(set(cpus) - allowed)
    if missing:
        raise ConfigError(
            f"cpus names processor {missing[0]}, which this process may not use",
            f"choose among {', '.join(str(cpu) for cpu in sorted(allowed))}",
        )
