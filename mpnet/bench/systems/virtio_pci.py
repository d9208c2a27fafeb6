"""A modern virtio device on PCI (VIRTIO 1.3, 4.1), set up over qtest as a driver would from the inside."""

from mpnet.bench.systems.qtest import Qtest
from mpnet.errors import MpnetError
from mpnet.guest.driver import Status
from mpnet.guest.virtqueue import Addresses

_COMMAND, _CAPABILITIES, _BAR0 = 0x04, 0x34, 0x10
_MEMORY, _MASTER, _NO_INTX = 1 << 1, 1 << 2, 1 << 10
_VENDOR = 0x09
_COMMON, _NOTIFY = 1, 2
_WINDOW = 0xFE000000
"""Where the device's registers are put: above the RAM of a small machine, and of no other device."""

# struct virtio_pci_common_cfg (4.1.4.3)
_FEATURE_SELECT, _FEATURE, _DRIVER_SELECT, _DRIVER_FEATURE = 0x00, 0x04, 0x08, 0x0C
_STATUS, _QUEUE_SELECT, _QUEUE_SIZE, _QUEUE_ENABLE, _QUEUE_NOTIFY_OFF = 0x14, 0x16, 0x18, 0x1C, 0x1E
_QUEUE_DESC, _QUEUE_DRIVER, _QUEUE_DEVICE = 0x20, 0x28, 0x30


class VirtioPci:
    """The device in ``slot`` of bus 0, its registers mapped and its state reset.

    Raises:
        MpnetError: it is no modern virtio device.
    """

    def __init__(self, machine: Qtest, slot: int) -> None:
        self._machine = machine
        found = dict(self._capabilities(slot))
        if not {_COMMON, _NOTIFY} <= set(found):
            raise MpnetError(f"the PCI device in slot {slot} is no modern virtio device")
        self._common = self._map(slot, found[_COMMON])
        self._notify = self._map(slot, found[_NOTIFY])
        self._multiplier = machine.pci_read(slot, found[_NOTIFY] + 16, 4)
        machine.pci_write(slot, _COMMAND, 2, _MEMORY | _MASTER | _NO_INTX)
        self._set(_STATUS, 1, 0)

    def _capabilities(self, slot: int) -> list[tuple[int, int]]:
        """(cfg_type, offset) of each virtio capability (4.1.4)."""
        machine, found = self._machine, []
        place = machine.pci_read(slot, _CAPABILITIES, 1)
        while place:
            if machine.pci_read(slot, place, 1) == _VENDOR:
                found.append((machine.pci_read(slot, place + 3, 1), place))
            place = machine.pci_read(slot, place + 1, 1)
        return found

    def _map(self, slot: int, capability: int) -> int:
        """Give the capability's BAR, of 64 bits, its address; return where its structure lies."""
        bar = _BAR0 + 4 * self._machine.pci_read(slot, capability + 4, 1)
        self._machine.pci_write(slot, bar, 4, _WINDOW)
        self._machine.pci_write(slot, bar + 4, 4, 0)
        return _WINDOW + self._machine.pci_read(slot, capability + 8, 4)

    def _set(self, register: int, size: int, value: int) -> None:
        self._machine.write(self._common + register, size, value)

    def negotiate(self, wanted: int) -> int:
        """Agree on those of ``wanted`` that the device offers (3.1.1); return them.

        Raises:
            MpnetError: the device refuses them.
        """
        self._set(_STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER)
        features = 0
        for word in range(2):
            self._set(_FEATURE_SELECT, 4, word)
            agreed = self._machine.read(self._common + _FEATURE, 4) & wanted >> 32 * word
            self._set(_DRIVER_SELECT, 4, word)
            self._set(_DRIVER_FEATURE, 4, agreed)
            features |= agreed << 32 * word
        self._set(_STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        if not self._machine.read(self._common + _STATUS, 1) & Status.FEATURES_OK:
            raise MpnetError(f"QEMU's device does not take the features {features:#x}")
        return features

    def start_queue(self, index: int, size: int, queue: Addresses) -> int:
        """Set a queue up and enable it (4.1.5.1.3); return the guest address where it is notified."""
        self._set(_QUEUE_SELECT, 2, index)
        self._set(_QUEUE_SIZE, 2, size)
        parts = (_QUEUE_DESC, queue.descriptors), (_QUEUE_DRIVER, queue.avail), (_QUEUE_DEVICE, queue.used)
        for register, address in parts:
            self._set(register, 4, address & 0xFFFFFFFF)
            self._set(register + 4, 4, address >> 32)
        self._set(_QUEUE_ENABLE, 2, 1)
        offset = self._machine.read(self._common + _QUEUE_NOTIFY_OFF, 2)
        return self._notify + offset * self._multiplier

    def start(self) -> None:
        """Tell the device that the driver is ready."""
        self._set(_STATUS, 1, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
