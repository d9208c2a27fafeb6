"""The control virtqueue's commands (VIRTIO 1.3, 5.1.6.5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.control.commands import Settings, execute
from mpnet.virtio.control_queue import ACK_ERR, ACK_OK, Command, CommandClass, read_pairs, set_pairs
from mpnet.virtio.features import Feature, mask

MAC = bytes.fromhex("525400123456")
ALL = mask(Feature.CTRL_VQ, Feature.MQ, Feature.CTRL_MAC_ADDR, Feature.GUEST_ANNOUNCE)
SETTINGS = Settings(MAC, max_pairs=4, announce=True)


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_a_driver_sets_the_pairs_it_uses(pairs: int) -> None:
    outcome = execute(set_pairs(pairs).pack(), ALL, SETTINGS)
    assert (outcome.ack, outcome.settings.pairs) == (ACK_OK, pairs)


@pytest.mark.parametrize("pairs", [0, 5, 0x8000, 0xFFFF])
def test_pairs_out_of_range_are_refused_with_both_numbers(pairs: int) -> None:
    outcome = execute(set_pairs(pairs).pack(), ALL, SETTINGS)
    assert (outcome.ack, outcome.settings) == (ACK_ERR, SETTINGS)
    assert f"asks for {pairs} queue pairs, expected 1 to 4" in outcome.refusal


def test_the_address_is_set_from_six_bytes() -> None:
    address = bytes.fromhex("0200000000ff")
    outcome = execute(Command(CommandClass.MAC, 1, address).pack(), ALL, SETTINGS)
    assert (outcome.ack, outcome.settings.mac) == (ACK_OK, address)


@pytest.mark.parametrize("data", [b"", MAC[:5], MAC + b"\0", b"\x01" + MAC[1:]])
def test_another_address_is_refused(data: bytes) -> None:
    outcome = execute(Command(CommandClass.MAC, 1, data).pack(), ALL, SETTINGS)
    assert (outcome.ack, outcome.settings) == (ACK_ERR, SETTINGS)


def test_an_announcement_is_acknowledged() -> None:
    outcome = execute(Command(CommandClass.ANNOUNCE, 0).pack(), ALL, SETTINGS)
    assert (outcome.ack, outcome.settings.announce) == (ACK_OK, False)


@pytest.mark.parametrize(
    "command", [set_pairs(2), Command(CommandClass.MAC, 1, MAC), Command(CommandClass.ANNOUNCE, 0)]
)
def test_a_command_needs_its_feature(command: Command) -> None:
    outcome = execute(command.pack(), mask(Feature.CTRL_VQ), SETTINGS)
    assert outcome.ack == ACK_ERR
    assert "negotiated" in outcome.refusal


@given(st.binary(max_size=64))
def test_whatever_comes_is_answered_and_settings_stay_sound(data: bytes) -> None:
    outcome = execute(data, ALL, SETTINGS)
    assert outcome.ack in {ACK_OK, ACK_ERR}
    assert 1 <= outcome.settings.pairs <= 4
    assert len(outcome.settings.mac) == 6
    if outcome.ack == ACK_ERR:
        assert outcome.settings == SETTINGS


@given(st.integers(0, 0xFFFF))
def test_pairs_go_through_bytes(pairs: int) -> None:
    assert read_pairs(Command.unpack(set_pairs(pairs).pack())) == pairs
