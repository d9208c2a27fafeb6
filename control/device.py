"""One virtio-net device: its port, segment, workers and vhost-user machine, and what an effect does to them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mpnet.config.device import MAX_MTU, MAX_POLL_US, MIN_MTU, DeviceConfig
from mpnet.config.properties import LINK
from mpnet.control import commands, leftovers
from mpnet.control.budget import Budget, metered
from mpnet.control.channel import BackendChannel
from mpnet.control.desired import Desired
from mpnet.control.engine import choose_engine
from mpnet.control.launcher import Launcher
from mpnet.control.log import get_log
from mpnet.control.offer import offered_features
from mpnet.control.peer import Peer
from mpnet.control.port import Port, open_port
from mpnet.control.rings import Rings
from mpnet.control.sharing import SharingWatch
from mpnet.control.supervisor import Supervisor, Surroundings
from mpnet.control.tap_watch import SECONDS as TAP_SECONDS
from mpnet.control.tap_watch import TapWatch
from mpnet.control.tasks import Tasks
from mpnet.control.values import check_cpus, number
from mpnet.control.worker import Limits
from mpnet.errors import ConfigError, MpnetError
from mpnet.rpc.worker import ControlCommand, RingBroken
from mpnet.segment.layout import Fault, Negotiation, workers_of
from mpnet.segment.segment import Segment
from mpnet.segment.trace import NO_SUBJECT, Kind
from mpnet.tap import kernel
from mpnet.vhost_user import effects
from mpnet.vhost_user.backend import Backend
from mpnet.vhost_user.channel import config_change
from mpnet.vhost_user.effects import Effect, MemoryRegion
from mpnet.vhost_user.state import Offer
from mpnet.virtio.config_space import MAC_SIZE, LinkStatus, NetConfig, parse_mac
from mpnet.virtio.features import Feature, has, names


class Device:
    """A device of this control process.

    ``await start()`` first. A session then gives it the effects of its messages; the management socket gives it
    ``set`` and ``scale``.

    Args:
        config: what was asked for.
        launcher: what starts workers.
        limits: how long to wait for them.
    """

    segment: Segment
    tap: Port
    supervisor: Supervisor
    backend: Backend
    _rings: Rings

    def __init__(self, config: DeviceConfig, launcher: Launcher, limits: Limits | None = None) -> None:
        self.config = config
        self.log = get_log(device=config.id)
        self.settings = commands.Settings(config.mac_octets, config.queue_pairs)
        self._mac = config.mac_octets
        self.link_up = True
        self.peer: Peer | None = None
        self.first_ring_ns = 0
        """When a guest's first ring was started, on the monotonic clock; 0 before."""
        self._sharing = SharingWatch(self.log)
        self._launcher = launcher
        self._limits = limits or Limits()
        self._mtu = config.mtu
        self._offered_pairs = config.queue_pairs
        self._tap_offloads = 0
        self._burst_watchers = 0
        self._channel = BackendChannel(self.log)
        self.accepts: Callable[[], bool] = lambda: False
        """Whether a front-end that connects is taken; the endpoint's."""
        self._lock = asyncio.Lock()
        self._tasks = Tasks(self.log)
        self.budget = Budget()
        """What front-end and guest have used of control's time."""
        self._command: bytes | None = None
        self._commanded = asyncio.Event()

    async def start(self) -> None:
        """Take segment and TAP, and start the workers.

        Raises:
            MpnetError: another process serves the device, the TAP cannot be used, a worker cannot start.
        """
        config = self.config
        check_cpus(config.cpus)
        engine = choose_engine(config.engine if config.tap else "rw", self.log)
        places = await asyncio.to_thread(leftovers.clear, config.id, self.log)
        self.tap = await asyncio.to_thread(open_port, config)
        try:
            self.segment = Segment.create(config.id, config.queue_pairs)
        except MpnetError:
            self.tap.close()
            raise
        places.put(self.segment)
        self.segment.header.engine = engine
        self._prepare()
        try:
            await self.supervisor.start(config.worker_count)
        except BaseException:
            self._give_back()
            raise
        for work in (self._watch_tap, self._sharing.run, self._execute_commands):
            self._tasks.keep(work)

    def _prepare(self) -> None:
        """Put together what needs TAP and segment."""
        if not self.tap.up:
            name = self.config.tap
            self.log.warning("TAP is down", tap=name, remedy=f"ip link set {name} up")
        if self.config.gro and self.config.backend == "tap" and (fault := kernel.udp_gso_fault()):
            self.log.warning(fault, tap=self.config.tap, remedy=kernel.REMEDY)
        header = self.segment.header
        self._tap_offloads = self.tap.offloads()
        self.backend = Backend(self._offer(), self._net_config().pack())
        header.offered_features = self.backend.offer.all_features
        around = Surroundings(
            segment=self.segment,
            launcher=self._launcher,
            log=self.log,
            cpus=self.config.cpus,
            reported=self._worker_reported,
            limits=self._limits,
        )
        desired = Desired(self.tap.fds, self.config.backend, poll_us=self.config.poll_us)
        self.supervisor = Supervisor(desired, around)
        self._rings = Rings(self.backend, self.supervisor, self.tap, self.segment, self.config, self.budget)

    async def _watch_tap(self) -> None:
        watch = TapWatch(self.tap, self.supervisor, self.log, self._link_changed)
        while True:
            await asyncio.sleep(TAP_SECONDS)
            async with self._lock:
                await watch.look()

    async def stop(self) -> None:
        """Stop the workers and give back segment and TAP; the session has ended before."""
        await self._tasks.cancel()
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
                await self._set_features(features)
            case effects.SetMemory(regions):
                await self._set_memory(regions)
            case effects.StartRing(index):
                self.first_ring_ns = self.first_ring_ns or time.monotonic_ns()
                await self._rings.start(index)
            case effects.UpdateRing(index):
                await self._rings.update(index)
            case effects.StopRing(index):
                await self._rings.stop(index)
            case effects.SetMtu(mtu):
                self.log.info("guest's MTU told", mtu=mtu)
            case effects.SetStatus(status):
                await self._set_status(status)
            case effects.Reset():
                await self._reset()
            case effects.WriteConfig(offset, data):
                self._write_config(offset, data)
            case effects.SetBackendChannel(fd):
                self._channel.fd = fd
            case _:
                raise TypeError(f"{effect} is the session's")

    async def fall_back(self) -> None:
        """Undo what was performed of a request that failed: serve what the machine has again."""
        async with self._lock:
            await self._rings.stop_unknown()
            if self.supervisor.desired.regions != self.backend.regions:
                try:
                    await self.supervisor.set_memory(self.backend.regions)
                except MpnetError as error:
                    self.log.error("guest memory not mapped as before", problem=str(error))

    async def forget_session(self) -> None:
        """Unmap guest memory and forget what was negotiated, after the session's rings have stopped."""
        async with self._lock:
            self.peer = None
            try:
                await self._set_memory(())
            finally:
                await self._reset()

    @property
    def unshared(self) -> list[MemoryRegion]:
        """What of the guest's memory is known not to be shared."""
        return self._sharing.unshared

    def note_stage(self) -> None:
        """Show in the segment how far the front-end has come."""
        self.segment.header.negotiation = self._stage()

    def _stage(self) -> Negotiation:
        if self.peer is None:
            return Negotiation.LISTENING
        if self.backend.negotiation == "running":
            return Negotiation.RUNNING
        if self.backend.regions:
            return Negotiation.MEMORY
        return Negotiation.FEATURES if self.backend.features else Negotiation.CONNECTED

    def renew_offer(self) -> None:
        """Offer what ``set`` has changed to the next front-end; the machine takes it up once disconnected."""
        self.backend.offer = self._offer()
        self.settings = replace(self.settings, max_pairs=self._offered_pairs)
        self.segment.header.offered_features = self.backend.offer.all_features
        self.backend.set_config(self._net_config().pack())

    def _offer(self) -> Offer:
        features = offered_features(self._tap_offloads, self._offered_pairs, self.config.backend)
        return Offer(features, self._offered_pairs)

    # What the driver says about the device.

    async def _set_memory(self, regions: tuple[MemoryRegion, ...]) -> None:
        await self.supervisor.set_memory(regions)
        self._sharing.look(regions, self.peer)

    async def _set_features(self, features: int) -> None:
        # What the driver does not take is segmented by the workers.
        offloads = self._tap_offloads if self.config.gso else features
        await asyncio.to_thread(self.tap.set_features, features, offloads)
        self.segment.header.features = features
        self.trace(Kind.FEATURES_SET, features)
        self.log.info("features negotiated", features=" ".join(names(features)))

    async def _set_status(self, status: int) -> None:
        self.segment.header.status = status
        if status == 0:
            await self._reset_settings()

    async def _reset(self) -> None:
        self.segment.header.features = 0
        self.segment.header.status = 0
        await self._reset_settings()
        await asyncio.to_thread(self.tap.set_features, 0)

    async def _reset_settings(self) -> None:
        # An address that one driver set is not the next one's.
        self.settings = replace(self.settings, mac=self._mac, pairs=1, announce=False)
        self.backend.set_config(self._net_config().pack())
        await self._rings.use_pairs(1)

    def _write_config(self, offset: int, data: bytes) -> None:
        mac = bytearray(self.settings.mac)
        mac[offset : offset + len(data)] = data
        self.settings = replace(self.settings, mac=bytes(mac[:MAC_SIZE]))
        self.backend.set_config(self._net_config().pack())

    def _worker_reported(self, told: RingBroken | ControlCommand) -> None:
        if isinstance(told, RingBroken):
            fault = Fault(told.fault).name.lower()
            pair = self.supervisor.desired.pair_of(told.index)
            worker = workers_of(self.segment.rings)[pair]
            self.log.error("the guest broke a ring", queue=pair, ring=told.index, worker=worker, fault=fault)
            self.backend.require_reset()
            self._config_changed()
            return
        # One at a time: a driver waits for the answer, and a replacement tells the same one again.
        self._command = told.data
        self._commanded.set()

    async def _execute_commands(self) -> None:
        while True:
            await self._commanded.wait()
            self._commanded.clear()
            if self._command is not None:
                command, self._command = self._command, None
                await asyncio.sleep(self.budget.debt)
                await metered(self._execute(command), self.budget.spend)

    async def _execute(self, data: bytes) -> None:
        """Carry out a command of the control queue and answer it."""
        async with self._lock:
            outcome = commands.execute(data, self.backend.features, self.settings)
            try:
                await self._rings.use_pairs(outcome.settings.pairs)
            except MpnetError as error:
                outcome = commands.Outcome(self.settings, str(error))
            if outcome.refusal:
                self.log.warning("control command refused", problem=outcome.refusal)
            self.settings = outcome.settings
            self.backend.set_config(self._net_config().pack())
            await self.supervisor.complete_command(outcome.ack)

    # What the host says about the device.

    @property
    def offered_pairs(self) -> int:
        """Queue pairs offered from the next negotiation on."""
        return self._offered_pairs

    @property
    def mtu(self) -> int:
        """The MTU the guest is told: the one asked for, else the TAP's."""
        return self._mtu or self.tap.mtu

    def _net_config(self) -> NetConfig:
        status = LinkStatus.LINK_UP if self.link_up and not self.tap.gone else LinkStatus(0)
        if self.settings.announce:
            status |= LinkStatus.ANNOUNCE
        return NetConfig(self.settings.mac, status, max_virtqueue_pairs=self.settings.max_pairs, mtu=self.mtu)

    async def set(self, name: str, value: Any) -> None:
        """Change the device while it runs.

        Args:
            name: one of ``config.properties``.
            value: as it says there; numbers may be text.

        Raises:
            MpnetError: an unknown name, or a value that cannot be used.
        """
        changes = {
            "combined": self._set_combined,
            "mtu": self._set_mtu,
            "mac": self._set_mac,
            "link": self._set_link,
            "poll-us": self._set_polling,
        }
        if name not in changes:
            raise ConfigError(f"there is no setting {name!r}, expected one of {', '.join(changes)}")
        async with self._lock:
            await changes[name](value)
            self._config_changed()
        self.log.info("device changed", setting=name, value=value)

    async def scale(self, workers: int) -> None:
        """Share the queue pairs among ``workers`` processes, while packets flow.

        Raises:
            MpnetError: the number is out of range, or a new worker could not be started.
        """
        async with self._lock:
            await self.supervisor.scale(workers)

    async def watch_bursts(self, watchers: int) -> None:
        """Have bursts traced as long as somebody watches them.

        Args:
            watchers: how many begin to; -1 for one who leaves.
        """
        self._burst_watchers += watchers
        async with self._lock:
            await self.supervisor.trace_bursts(on=self._burst_watchers > 0)

    def trace(self, kind: Kind, *values: int) -> None:
        """Put an event about the whole device into control's trace."""
        self.segment.traces[-1].record(kind, NO_SUBJECT, *values)

    async def _set_combined(self, value: Any) -> None:
        self._offered_pairs = number("combined", value, 1, self.config.queue_pairs)
        if self.peer is None:
            self.renew_offer()
            self.backend.disconnected()

    async def _set_mtu(self, value: Any) -> None:
        mtu = number("mtu", value, MIN_MTU, MAX_MTU)
        self.tap.set_mtu(mtu)
        self._mtu = mtu

    async def _set_mac(self, value: Any) -> None:
        self._mac = parse_mac(str(value))
        self.settings = replace(self.settings, mac=self._mac)

    async def _set_link(self, value: Any) -> None:
        if value not in LINK:
            raise ConfigError(f"link is {value!r}, expected {' or '.join(LINK)}")
        up = value == "up"
        self.tap.set_carrier(up=up)
        self._announce(wanted=up and not self.link_up)
        self.link_up = up

    def _announce(self, *, wanted: bool) -> None:
        # While the link was down, others may have learnt another place for the guest (VIRTIO 5.1.6.5.4).
        announces = has(self.backend.features, Feature.GUEST_ANNOUNCE)
        self.settings = replace(self.settings, announce=wanted and announces)

    def _link_changed(self) -> None:
        self._announce(wanted=self.link_up and not self.tap.gone)
        self._config_changed()

    async def _set_polling(self, value: Any) -> None:
        await self.supervisor.set_polling(number("poll-us", value, 0, MAX_POLL_US))

    def _config_changed(self) -> None:
        """Have the driver read the configuration space again, where the front-end passes that on."""
        self.backend.set_config(self._net_config().pack())
        self._channel.tell(config_change())
