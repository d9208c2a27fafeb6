"""What a user asks of one device."""

import hashlib
import os
import re

import msgspec

from mpnet.config.cpus import MAX_CPU
from mpnet.config.place import FieldError

MAX_QUEUE_PAIRS = 64
MIN_MTU = 68
"""The least VIRTIO 5.1.4 allows, IPv4's own minimum."""
MAX_MTU = 65521
"""The most a Linux TAP takes: 65535 bytes less the Ethernet header."""
MAX_POLL_US = 10_000
"""A worker that polls for longer saves nobody anything: it could as well never sleep."""
MAX_SOCKET_BYTES = 107
"""sun_path of a Unix socket's address, less its closing zero."""
MAX_TAP_BYTES = 15
"""IFNAMSIZ less its closing zero."""
ENGINES = ("auto", "rw", "uring")
"""``rw``: a system call for each frame; ``uring``: one for those of a burst, through io_uring."""
TAP, NULL, ECHO = BACKENDS = ("tap", "null", "echo")
"""What may be behind a device: a TAP; nothing, which takes every frame; or what sends each frame back."""
FD_PREFIX = "fd:"
"""Begins a ``socket`` that is no path but a connected socket this process has inherited."""

_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_FD = re.compile(r"fd:\d{1,6}", re.ASCII)
_USER = re.compile(r"[^\s:/+,]+")
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_TAP_FORBIDDEN = re.compile(r"[/:%\s\x00-\x1f\x7f]")


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One virtio-net device; in strings and files the names have dashes.

    Attributes:
        id: the device's name in commands, metrics and shared memory; a letter, then letters, digits, ``_.-``.
        backend: one of ``BACKENDS``.
        tap: the TAP that carries its packets on the host; empty with a ``backend`` other than "tap".
        socket: path of its vhost-user Unix socket; or ``fd:N`` for a connected one, inherited as descriptor N.
        queue_pairs: receive/transmit queue pairs, 1 to ``MAX_QUEUE_PAIRS``.
        workers: processes that share the pairs; None for one per pair.
        cpus: processors to pin the workers to, in turn; empty leaves them to the scheduler.
        mac: unicast address; empty for one derived from ``id``, the same at every start.
        mtu: bytes of payload; 0 for the TAP's.
        create: create the TAP when it is missing.
        gro: make one frame of several of a flow on their way to the TAP.
        gso: take from the TAP all offloads it has and segment what the guest does not take.
        engine: how frames are written to the TAP, one of ``ENGINES``; ``auto`` is the faster one here.
        poll_us: microseconds that a worker may go on looking for work before it sleeps, adapted to whether that
            pays; 0 for none.
        client: connect to the front-end's socket instead of listening on it.
        socket_mode: permission bits of the socket, in octal; empty for 0600, or 0660 with ``socket_group``.
        socket_group: the socket's group, by name or number; empty for this process's.
        users: whose front-ends may attach, by name or number, beside root's; empty for all who reach the socket.

    Raises:
        FieldError: a value out of range.
    """

    id: str
    backend: str = TAP
    tap: str = ""
    socket: str
    queue_pairs: int = 1
    workers: int | None = None
    cpus: tuple[int, ...] = ()
    mac: str = ""
    mtu: int = 0
    create: bool = False
    gro: bool = True
    gso: bool = True
    engine: str = "auto"
    poll_us: int = 0
    client: bool = False
    users: tuple[str, ...] = ()
    socket_mode: str = ""
    socket_group: str = ""

    def __post_init__(self) -> None:
        _check_id(self.id)
        _check_backend(self)
        _check_socket(self.socket)
        _check_range("queue_pairs", self.queue_pairs, 1, MAX_QUEUE_PAIRS)
        _check_workers(self.workers, self.queue_pairs)
        _check_cpus(self.cpus)
        _check_users(self.users)
        _check_access(self)
        _check_engine(self.engine)
        _check_range("poll_us", self.poll_us, 0, MAX_POLL_US)
        if self.mac:
            _check_mac(self.mac)
        if self.mtu:
            _check_range("mtu", self.mtu, MIN_MTU, MAX_MTU)

    @property
    def worker_count(self) -> int:
        """Processes to start: as many as asked for, else one per queue pair."""
        return self.workers or self.queue_pairs

    @property
    def socket_fd(self) -> int | None:
        """The descriptor of an inherited socket; None where ``socket`` is a path."""
        return int(self.socket.removeprefix(FD_PREFIX)) if self.socket.startswith(FD_PREFIX) else None

    @property
    def socket_permissions(self) -> int:
        """Permission bits of the socket."""
        return int(self.socket_mode, 8) if self.socket_mode else 0o660 if self.socket_group else 0o600

    @property
    def mac_octets(self) -> bytes:
        """The address the guest gets, 6 bytes: the one given, else the one derived from ``id``."""
        if self.mac:
            return bytes.fromhex(self.mac.replace(":", ""))
        digest = hashlib.sha256(b"mpnet " + self.id.encode()).digest()
        # Locally administered, unicast (IEEE 802: the two lowest bits of the first octet).
        return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


def spread(queue_pairs: int, workers: int) -> list[int]:
    """Return each queue pair's worker: in turn, so that any number of pairs the guest enables is shared out."""
    return [pair % workers for pair in range(queue_pairs)]


def _check_id(value: str) -> None:
    if not _ID.fullmatch(value):
        raise FieldError(
            "id",
            f"id is {value!r}, expected a letter and up to 62 letters, digits, '_', '.' or '-'",
            "as in id=net0",
        )


def _check_backend(config: DeviceConfig) -> None:
    if config.backend not in BACKENDS:
        raise FieldError("backend", f"backend is {config.backend!r}, expected one of {', '.join(BACKENDS)}")
    if config.backend == TAP:
        _check_tap(config.tap)
        return
    for field, default in (("tap", ""), ("create", False), ("engine", "auto")):
        if getattr(config, field) != default:
            raise FieldError(
                field, f"{field} is for a TAP, and backend={config.backend} has none", f"remove {field}=…"
            )


def _check_tap(value: str) -> None:
    length = len(os.fsencode(value))
    if not 1 <= length <= MAX_TAP_BYTES:
        raise FieldError(
            "tap", f"tap is {value!r}, {length} bytes long, but Linux takes names of 1 to {MAX_TAP_BYTES}"
        )
    if value in {".", ".."} or _TAP_FORBIDDEN.search(value):
        raise FieldError(
            "tap", f"tap is {value!r}, expected a name without '/', ':', '%' and white space", "as in tap=tap0"
        )


def _check_socket(value: str) -> None:
    length = len(os.fsencode(value))
    if not 1 <= length <= MAX_SOCKET_BYTES:
        raise FieldError(
            "socket",
            f"socket is {length} bytes long, but a Unix socket's path has 1 to {MAX_SOCKET_BYTES}",
            "choose a shorter path, as /run/mpnet/net0.sock",
        )
    if value.startswith(FD_PREFIX) and not _FD.fullmatch(value):
        raise FieldError("socket", f"socket is {value!r}, expected {FD_PREFIX}N or a path", "as in socket=fd:3")
    if "\0" in value:
        raise FieldError("socket", "socket has a zero byte, expected a path in the file system")


def _check_access(config: DeviceConfig) -> None:
    if config.socket_mode and not _MODE.fullmatch(config.socket_mode):
        raise FieldError(
            "socket_mode",
            f"socket-mode is {config.socket_mode!r}, expected octal digits",
            "as in socket-mode=0660",
        )
    if config.socket_group and not _USER.fullmatch(config.socket_group):
        raise FieldError(
            "socket_group",
            f"socket-group is {config.socket_group!r}, expected the name or number of a group",
            "as in socket-group=kvm",
        )
    for field in ("socket_mode", "socket_group"):
        if getattr(config, field) and (config.client or config.socket_fd is not None):
            name = field.replace("_", "-")
            raise FieldError(
                field, f"{name} is for a socket that mpnet makes, not the front-end's", f"remove {name}"
            )


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FieldError(field, f"{field.replace('_', '-')} is {value}, expected {low} to {high}")


def _check_workers(workers: int | None, queue_pairs: int) -> None:
    if workers is not None and not 1 <= workers <= queue_pairs:
        raise FieldError(
            "workers",
            f"workers is {workers}, expected 1 to {queue_pairs}, the device's queue-pairs",
            "a worker serves one queue pair or more; leave it out for one for each",
        )


def _check_cpus(cpus: tuple[int, ...]) -> None:
    for cpu in cpus:
        _check_range("cpus", cpu, 0, MAX_CPU)
    if len(set(cpus)) < len(cpus):
        twice = next(cpu for cpu in cpus if cpus.count(cpu) > 1)
        raise FieldError("cpus", f"cpus names processor {twice} twice, expected each once")


def _check_users(users: tuple[str, ...]) -> None:
    for user in users:
        if not _USER.fullmatch(user):
            raise FieldError(
                "users",
                f"users has {user!r}, expected names or numbers of users",
                "as in users=libvirt-qemu+64055",
            )


def _check_engine(value: str) -> None:
    if value not in ENGINES:
        raise FieldError("engine", f"engine is {value!r}, expected one of {', '.join(ENGINES)}")


def _check_mac(value: str) -> None:
    if not _MAC.fullmatch(value):
        raise FieldError("mac", f"mac is {value!r}, expected six octets", "as in mac=52:54:00:12:34:56")
    octets = bytes.fromhex(value.replace(":", ""))
    if octets[0] & 1 or not any(octets):
        raise FieldError(
            "mac", f"mac {value} is not a unicast address", "the first octet must be even and not all may be zero"
        )
