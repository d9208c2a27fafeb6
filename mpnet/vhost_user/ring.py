"""What the front-end has told about one ring."""

from dataclasses import dataclass


@dataclass(slots=True)
class Ring:
    """One virtqueue as set up over vhost-user; the session reads it when told to start or update the ring.

    Attributes:
        index: ring number; queue pair n is rings 2n (rx, to the guest) and 2n + 1 (tx).
        size: descriptors; 0 until SET_VRING_NUM.
        descriptor_address: front-end user address of the descriptor table (packed: the descriptor ring).
        avail_address: the same of the available ring (packed: the driver event suppression structure).
        used_address: the same of the used ring (packed: the device event suppression structure).
        log_address: guest physical address to log used-ring writes at; holds with bit 0 of ``flags``.
        flags: of SET_VRING_ADDR; bit 0 (VHOST_VRING_F_LOG) asks for used-ring writes to be logged.
        base: where to begin. Split: the next available index. Packed: bits 0 to 14 the next available
            descriptor, 15 its wrap counter, 16 to 31 the same of used, or 0 from front-ends that send 16 bits.
        kick_fd: readable when there is work; None while started means poll the ring instead.
        call_fd: written to interrupt the guest; None means the guest polls.
        err_fd: written when the ring breaks; None means nobody listens.
        enabled: False: tx is consumed and dropped, rx supplies nothing.
        started: between StartRing and StopRing.
        addresses_known: SET_VRING_ADDR has come.
        kick_known: SET_VRING_KICK has come since the ring last stopped, with a descriptor or for polling.
    """

    index: int
    size: int = 0
    descriptor_address: int = 0
    avail_address: int = 0
    used_address: int = 0
    log_address: int = 0
    flags: int = 0
    base: int = 0
    kick_fd: int | None = None
    call_fd: int | None = None
    err_fd: int | None = None
    enabled: bool = False
    started: bool = False
    addresses_known: bool = False
    kick_known: bool = False

    @property
    def startable(self) -> bool:
        """Everything needed to serve the ring has come, and it is not being served yet."""
        return self.size > 0 and self.addresses_known and self.kick_known and not self.started

    @property
    def fds(self) -> tuple[int, ...]:
        """The file descriptors held for this ring."""
        return tuple(fd for fd in (self.kick_fd, self.call_fd, self.err_fd) if fd is not None)

    def forget_start(self) -> None:
        """Note that the ring stops, and needs a new kick to start again."""
        self.kick_fd = None
        self.kick_known = self.started = False

    def forget_setup(self) -> None:
        """Forget size, addresses and base, as a device reset does; the ring must be stopped."""
        self.size = self.descriptor_address = self.avail_address = self.used_address = 0
        self.log_address = self.flags = self.base = 0
        self.addresses_known = False
