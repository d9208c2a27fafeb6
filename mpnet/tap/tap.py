"""A TAP and its queues, one a queue pair."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, Self

from mpnet.errors import TapError
from mpnet.tap import ioctls, link
from mpnet.tap.holders import holders
from mpnet.virtio import net_header
from mpnet.virtio.features import Feature, mask

MAX_NAME_BYTES = 15
"""IFNAMSIZ less its closing zero."""
DEFAULT_MTU = 1500
"""Ethernet's."""

_OFFLOADS = (
    # TSO goes with CSUM, and ECN with a TSO: each is tried together with what stands before it. USO (Linux 6.2
    # and later) is taken for both versions of IP or for none.
    (mask(Feature.GUEST_CSUM), ioctls.TUN_F_CSUM),
    (mask(Feature.GUEST_TSO4), ioctls.TUN_F_TSO4),
    (mask(Feature.GUEST_TSO6), ioctls.TUN_F_TSO6),
    (mask(Feature.GUEST_ECN), ioctls.TUN_F_TSO_ECN),
    (mask(Feature.GUEST_USO4, Feature.GUEST_USO6), ioctls.TUN_F_USO4 | ioctls.TUN_F_USO6),
)


class Tap:
    """An open TAP; a queue that is open receives packets only between ``attach`` and ``detach``.

    A TAP made here vanishes with the last process that holds a queue of it. One that is deleted on the host is
    *gone*: what is asked of it then is remembered, and done once ``take_up`` has found one of its name again.

    Attributes:
        name: the interface's name.
        created: it was made here.
        multi_queue: it takes several queues; one that does not has its only queue attached at all times.
        fds: the queues' file descriptors, by queue pair.
        gone: it was deleted.
    """

    def __init__(self, name: str, fds: list[int], *, multi_queue: bool, created: bool) -> None:
        self.name = name
        self.created = created
        self.multi_queue = multi_queue
        self.fds = fds
        self.gone = False
        self._index = 0
        self._attached: set[int] = set()
        self._carrier = True
        self._mtu = 0
        self._mtu_before = 0
        self._features: tuple[int, int] | None = None

    @classmethod
    def open(cls, name: str, queue_pairs: int, *, create: bool = False) -> Self:
        """Open ``queue_pairs`` queues of TAP ``name``, all detached.

        Not to be called from a coroutine, see ``link.find``.

        Args:
            name: of the interface.
            queue_pairs: queues to open; a TAP without multi_queue has one.
            create: make the TAP, for as long as it is held open, where there is none.

        Raises:
            TapError: it is missing, busy, forbidden, no TAP or without a flag it needs.
        """
        fds, multi_queue, created = _open_queues(name, queue_pairs, create=create)
        tap = cls(name, fds, multi_queue=multi_queue, created=created)
        try:
            tap._begin()
        except OSError as error:
            tap.close()
            _explain(name, queue_pairs, error)
        return tap

    def _begin(self) -> None:
        self._index = ioctls.interface_index(self.name)
        self._attached = set(range(len(self.fds)))
        ioctls.set_header(self.fds[0], net_header.BYTES)
        if self.created:
            ioctls.raise_interface(self.name)
        for pair in range(len(self.fds)):
            self.detach(pair)

    def check(self) -> bool:
        """Whether it is still there, wherever it may have been moved to or however it is called by now."""
        self.gone = self.gone or not (ioctls.interface_index(self.name) == self._index or self._answers())
        return not self.gone

    def _answers(self) -> bool:
        try:
            with self._device() as fd:
                return ioctls.belongs_to_device(fd)
        except OSError:
            return False

    @property
    def is_back(self) -> bool:
        """Whether there is an interface of the name of one that has gone."""
        return self.gone and ioctls.interface_index(self.name) > 0

    def take_up(self) -> list[int]:
        """Open the TAP that was made in place of one that has gone, and do what was asked of that meanwhile.

        Not to be called from a coroutine, see ``link.find``.

        Returns:
            The descriptors there were, which are the caller's to close once nobody uses them.

        Raises:
            OSError, TapError: it cannot be used, as in ``open``; it is gone as before.
        """
        fds, multi_queue, _ = _open_queues(self.name, len(self.fds), create=False)
        old, wanted = self.fds, self._attached
        self.fds, self.multi_queue, self.created, self.gone = fds, multi_queue, False, False
        try:
            self._begin()
            self._do_again(wanted)
        except (OSError, TapError):
            self.fds, self._attached, self.gone = old, wanted, True
            for fd in fds:
                os.close(fd)
            raise
        return old

    def _do_again(self, attached: set[int]) -> None:
        if self._features:
            self.set_features(*self._features)
        if self._mtu_before:
            mtu, self._mtu_before = self._mtu, 0
            self.set_mtu(mtu)
        for pair in attached:
            self.attach(pair)

    @property
    def attached(self) -> frozenset[int]:
        """Queue pairs whose queue is attached, or is to be once the TAP is back."""
        return frozenset(self._attached)

    def attach(self, pair: int) -> None:
        """Let the kernel send packets to a queue pair; attached twice is attached once.

        Raises:
            TapError: the kernel refuses.
        """
        if pair in self._attached:
            return
        try:
            if not self.gone:
                ioctls.set_queue(self.fds[pair], attached=True)
        except OSError as error:
            if self.check():
                raise TapError(
                    f"queue {pair} of TAP {self.name!r} cannot be attached ({error.strerror})"
                ) from error
        self._attached.add(pair)
        if len(self._attached) == 1 and not self._carrier and not self.gone:
            self._on_device(self._apply_carrier)

    def detach(self, pair: int) -> None:
        """Keep the kernel from sending packets to a queue pair; what its queue holds is dropped."""
        if not self.multi_queue or pair not in self._attached:
            return
        with suppress(OSError):  # a TAP that was deleted has no queue attached
            ioctls.set_queue(self.fds[pair], attached=False)
        self._attached.remove(pair)

    def offloads(self) -> int:
        """Return the features among GUEST_CSUM, GUEST_TSO4/6, GUEST_ECN and GUEST_USO4/6 that the TAP can do.

        Trying them leaves all of them off.
        """
        with self._device() as fd:
            flags, features = 0, 0
            for wanted, flag in _OFFLOADS:
                try:
                    ioctls.set_offload(fd, flags | flag)
                except OSError:
                    continue
                flags |= flag
                features |= wanted
            ioctls.set_offload(fd, 0)
        return features

    def set_features(self, features: int, offloads: int | None = None) -> None:
        """Exchange packets as the negotiated ``features`` allow: header length, unfinished checksums, TSO, USO.

        Args:
            features: those negotiated; of a driver that takes USO for one version of IP alone it counts as none.
            offloads: of ``offloads()``, what the TAP shall give where that is not what was negotiated.

        Raises:
            TapError: the TAP cannot do what ``offloads`` said it can.
        """
        given = features if offloads is None else offloads
        flags = sum(flag for wanted, flag in _OFFLOADS if given & wanted == wanted)
        try:
            if not self.gone:
                with self._device() as fd:
                    ioctls.set_header(fd, net_header.header_bytes(features))
                    ioctls.set_offload(fd, flags)
        except OSError as error:
            if self.check():
                raise TapError(
                    f"TAP {self.name!r} does not take offloads {flags:#x} ({error.strerror})"
                ) from error
        self._features = features, given

    def set_carrier(self, *, up: bool) -> None:
        """Raise or drop the link as the host sees it.

        Raises:
            TapError: the TAP is down.
        """
        self._carrier = up
        try:
            if not self.gone:
                self._on_device(self._apply_carrier)
        except OSError as error:
            if self.check():
                raise TapError(
                    f"the carrier of TAP {self.name!r} cannot be changed ({error.strerror})",
                    f"set it up: ip link set {self.name} up",
                ) from error

    def _apply_carrier(self, fd: int) -> None:
        ioctls.set_carrier(fd, up=self._carrier)

    @property
    def mtu(self) -> int:
        """The TAP's MTU; the last one known when it has gone, or to another network namespace."""
        if not self.gone:
            with suppress(OSError):
                self._mtu = ioctls.interface_mtu(self.name)
        return self._mtu

    def set_mtu(self, mtu: int) -> None:
        """Set the TAP's MTU, until ``close``.

        Raises:
            TapError: the kernel refuses.
        """
        before = self.mtu
        try:
            if not self.gone:
                ioctls.set_interface_mtu(self.name, mtu)
        except OSError as error:
            if self.check():
                raise TapError(
                    f"the MTU of TAP {self.name!r} cannot be {mtu} ({error.strerror})",
                    f"as administrator: ip link set {self.name} mtu {mtu}",
                ) from error
        self._mtu = mtu
        self._mtu_before = self._mtu_before or before

    def _restore_mtu(self) -> None:
        """Give back the MTU that the TAP had, unless somebody else has changed it since."""
        known = self._mtu
        if self._mtu_before and self.check() and self.mtu == known:
            with suppress(OSError):
                ioctls.set_interface_mtu(self.name, self._mtu_before)

    @property
    def up(self) -> bool:
        """Whether the TAP is up; False as well when it is gone."""
        try:
            return not self.gone and ioctls.interface_is_up(self.name)
        except OSError:
            return False

    def close(self) -> None:
        """Close all queues here and give back the MTU; processes that were given duplicates keep theirs."""
        self._restore_mtu()
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self._attached.clear()

    def _on_device(self, change: Callable[[int], None]) -> None:
        with self._device() as fd:
            change(fd)

    @contextmanager
    def _device(self) -> Iterator[int]:
        """A queue through which the device can be reached: attached, if only for the moment."""
        if self._attached:
            yield self.fds[min(self._attached)]
            return
        ioctls.set_queue(self.fds[0], attached=True)
        try:
            yield self.fds[0]
        finally:
            with suppress(OSError):  # it was deleted meanwhile
                ioctls.set_queue(self.fds[0], attached=False)


def _open_queues(name: str, queue_pairs: int, *, create: bool) -> tuple[list[int], bool, bool]:
    """Open queues; gives them, whether the TAP has multi_queue, and whether it was made for them."""
    _check_arguments(name, queue_pairs)
    found = link.find(name)
    if found:
        _check_link(name, queue_pairs, found)
    elif not create:
        raise TapError(f"there is no TAP {name!r}", f"{_add_command(name)}, or give the option create=on")
    multi_queue = found.multi_queue if found else True
    fds: list[int] = []
    try:
        fds.extend(ioctls.open_queue(name, multi_queue=multi_queue) for _ in range(queue_pairs))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        _explain(name, queue_pairs, error)
    return fds, multi_queue, not found


def _add_command(name: str) -> str:
    user = "" if os.geteuid() == 0 else f" user {os.geteuid()}"
    return f"ip tuntap add dev {name} mode tap multi_queue vnet_hdr{user}"


def _make_anew(name: str) -> str:
    return f"ip tuntap del dev {name} mode tap; {_add_command(name)}"


def _check_arguments(name: str, queue_pairs: int) -> None:
    size = len(os.fsencode(name))
    if not 1 <= size <= MAX_NAME_BYTES:
        raise TapError(
            f"TAP name {name!r} has {size} bytes, Linux takes 1 to {MAX_NAME_BYTES}", "choose a shorter name"
        )
    if name in {".", ".."} or "/" in name or ":" in name or "%" in name or any(c.isspace() for c in name):
        raise TapError(f"TAP name {name!r} has a character Linux refuses", "use letters, digits, '-' and '_'")
    if not 1 <= queue_pairs <= ioctls.MAX_QUEUES:
        raise TapError(
            f"TAP {name!r} is to have {queue_pairs} queues, Linux allows 1 to {ioctls.MAX_QUEUES}",
            f"give queue-pairs a number up to {ioctls.MAX_QUEUES}",
        )


def _check_link(name: str, queue_pairs: int, found: link.Link) -> None:
    if found.kind != "tun":
        kind = f"a {found.kind} interface" if found.kind else "another kind of interface"
        raise TapError(f"{name!r} is {kind}, expected a TAP", f"choose another name: {_add_command('tap0')}")
    if not found.tap:
        remedy = f"ip tuntap del dev {name} mode tun; {_add_command(name)}"
        raise TapError(f"{name!r} is a TUN (IP packets), expected a TAP (Ethernet frames)", remedy)
    if not found.vnet_hdr:
        raise TapError(f"TAP {name!r} lacks the flag vnet_hdr", _make_anew(name))
    if queue_pairs > 1 and not found.multi_queue:
        raise TapError(
            f"TAP {name!r} lacks the flag multi_queue, needed for {queue_pairs} queue pairs",
            f"{_make_anew(name)}; or give queue-pairs=1",
        )
    if found.open_queues:
        _busy(name)


def _busy(name: str) -> NoReturn:
    by = ", ".join(holders(name))
    who = f"held by process {by}" if by else "held by a process that cannot be seen from here"
    raise TapError(f"TAP {name!r} is busy: {who}", "stop that process or choose another TAP")


def _explain(name: str, queue_pairs: int, error: OSError) -> NoReturn:
    """Say what an errno of opening ``/dev/net/tun`` or of TUNSETIFF means."""
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}:
        raise TapError(
            f"{ioctls.CLONE_DEVICE} is missing ({error.strerror})",
            "as administrator: modprobe tun; in a container, pass the device in: --device /dev/net/tun",
        ) from error
    if error.errno == errno.EACCES:
        raise TapError(
            f"no permission to open {ioctls.CLONE_DEVICE}", f"as administrator: chmod 666 {ioctls.CLONE_DEVICE}"
        ) from error
    if error.errno == errno.EPERM:
        raise TapError(
            f"no permission to use TAP {name!r} as user {os.geteuid()}",
            f"as administrator: {_make_anew(name)}; or run with the capability CAP_NET_ADMIN",
        ) from error
    if error.errno == errno.EBUSY:
        _busy(name)
    if error.errno == errno.E2BIG:
        raise TapError(
            f"TAP {name!r} does not take {queue_pairs} queues, Linux allows {ioctls.MAX_QUEUES}"
        ) from error
    raise TapError(f"TAP {name!r} cannot be opened with {queue_pairs} queues ({error.strerror})") from error
