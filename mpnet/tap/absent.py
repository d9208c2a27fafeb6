"""What stands in a TAP's place where a device has none: its frames go nowhere, or straight back."""

from mpnet.tap.tap import DEFAULT_MTU


class NoTap:
    """What ``Tap`` offers to a device, with nothing behind it.

    Attributes:
        fds: no file descriptor for any queue pair.
    """

    up = True
    gone = False
    is_back = False

    def __init__(self, queue_pairs: int) -> None:
        self.fds: list[int | None] = [None] * queue_pairs
        self._mtu = DEFAULT_MTU
        self._attached: set[int] = set()

    @property
    def attached(self) -> frozenset[int]:
        """Queue pairs that would be attached."""
        return frozenset(self._attached)

    @property
    def mtu(self) -> int:
        """The MTU that was set, at first Ethernet's."""
        return self._mtu

    def set_mtu(self, mtu: int) -> None:
        """Take any MTU: it is what the guest is told, and no more."""
        self._mtu = mtu

    def attach(self, pair: int) -> None:
        """Note it: there is no kernel that chooses among queues."""
        self._attached.add(pair)

    def detach(self, pair: int) -> None:
        """Note it, likewise."""
        self._attached.discard(pair)

    def check(self) -> bool:
        """Be there: nothing can be deleted."""
        return True

    def take_up(self) -> list[int]:
        """Have nothing to take up."""
        return []

    def offloads(self) -> int:
        """Offer none towards the guest."""
        return 0

    def set_features(self, features: int, offloads: int | None = None) -> None:
        """Do nothing: the worker knows what was negotiated."""

    def set_carrier(self, *, up: bool) -> None:
        """Do nothing: the guest alone sees the link."""

    def close(self) -> None:
        """Do nothing."""
