"""What the control virtqueue's commands do: a command and the settings before it in, an ack and settings out.

Only what takes effect is here, and only that is offered: without CTRL_RX and CTRL_VLAN the device passes every
frame, and a driver that has not negotiated them sends no filter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mpnet.errors import ProtocolError
from mpnet.virtio import control_queue
from mpnet.virtio.config_space import MAC_SIZE
from mpnet.virtio.control_queue import Command, CommandClass
from mpnet.virtio.features import Feature, has


@dataclass(frozen=True, slots=True)
class Settings:
    """What a driver can change by commands.

    Attributes:
        mac: the device's address, 6 bytes.
        max_pairs: queue pairs the device has.
        pairs: queue pairs the driver uses; 1 after a reset (VIRTIO 5.1.6.5.5).
        announce: the driver is asked to announce itself and has not said yet that it did (5.1.6.5.4).
    """

    mac: bytes
    max_pairs: int
    pairs: int = 1
    announce: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to.

    Attributes:
        settings: as they are from now on.
        refusal: why the command was refused; empty where it was carried out.
    """

    settings: Settings
    refusal: str = ""

    @property
    def ack(self) -> int:
        """The ack byte: VIRTIO_NET_OK or VIRTIO_NET_ERR."""
        return control_queue.ACK_ERR if self.refusal else control_queue.ACK_OK


def execute(data: bytes, features: int, settings: Settings) -> Outcome:
    """Carry out one command.

    Args:
        data: the device-readable part of its chain.
        features: those negotiated.
        settings: as they are.
    """
    try:
        command = Command.unpack(data)
        rule = _RULES.get((command.group, command.number))
        if rule is None:
            raise ProtocolError(f"control command {command.number} of class {command.group} is not supported")
        if not has(features, rule.needs):
            raise ProtocolError(f"{rule.name} came without {rule.needs.name} negotiated")
        return Outcome(rule.change(command, settings))
    except ProtocolError as error:
        return Outcome(settings, error.problem)


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    needs: Feature
    change: Callable[[Command, Settings], Settings]


def _set_pairs(command: Command, settings: Settings) -> Settings:
    pairs = control_queue.read_pairs(command)
    if not 1 <= pairs <= settings.max_pairs:
        raise ProtocolError(f"VQ_PAIRS_SET asks for {pairs} queue pairs, expected 1 to {settings.max_pairs}")
    return replace(settings, pairs=pairs)


def _set_mac(command: Command, settings: Settings) -> Settings:
    if len(command.data) != MAC_SIZE:
        raise ProtocolError(f"MAC_ADDR_SET has {len(command.data)} bytes of data, expected {MAC_SIZE}")
    if command.data[0] & 1:
        raise ProtocolError(f"MAC_ADDR_SET sets {command.data.hex(':')}, a group address")
    return replace(settings, mac=command.data)


def _acknowledge(_command: Command, settings: Settings) -> Settings:
    return replace(settings, announce=False)


_RULES: Mapping[tuple[int, int], _Rule] = MappingProxyType(
    {
        (CommandClass.MQ, control_queue.MQ_VQ_PAIRS_SET): _Rule("VQ_PAIRS_SET", Feature.MQ, _set_pairs),
        (CommandClass.MAC, control_queue.MAC_ADDR_SET): _Rule("MAC_ADDR_SET", Feature.CTRL_MAC_ADDR, _set_mac),
        (CommandClass.ANNOUNCE, control_queue.ANNOUNCE_ACK): _Rule(
            "ANNOUNCE_ACK", Feature.GUEST_ANNOUNCE, _acknowledge
        ),
    }
)
