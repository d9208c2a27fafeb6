"""The configuration space's layout, and MAC addresses as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.errors import ConfigError
from mpnet.virtio.config_space import (
    CONFIG_SIZE,
    DUPLEX_FULL,
    LinkStatus,
    NetConfig,
    format_mac,
    parse_mac,
)

MAC = bytes.fromhex("525400123456")
U8 = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)


def test_every_field_is_where_the_specification_puts_it():
    config = NetConfig(
        MAC, LinkStatus.LINK_UP | LinkStatus.ANNOUNCE, 0x0102, 0x0304, 0x05060708, DUPLEX_FULL, 40, 128, 0x1FF
    )
    assert config.pack() == bytes.fromhex("525400123456 0300 0201 0403 08070605 01 28 8000 ff010000")
    assert CONFIG_SIZE == 24


CONFIGS = st.builds(
    NetConfig,
    mac=st.binary(min_size=6, max_size=6),
    status=st.integers(0, 3).map(LinkStatus),
    max_virtqueue_pairs=U16,
    mtu=U16,
    speed=U32,
    duplex=U8,
    rss_max_key_size=U8,
    rss_max_indirection_table_length=U16,
    supported_hash_types=U32,
)


@given(CONFIGS)
def test_packing_keeps_every_value(config):
    assert NetConfig.unpack(config.pack() + b"more") == config


def test_a_short_space_is_refused():
    with pytest.raises(ConfigError, match="23 bytes, expected 24"):
        NetConfig.unpack(bytes(23))


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="does not fit"):
        NetConfig(MAC, mtu=65536).pack()
    with pytest.raises(ConfigError, match="5 bytes, expected 6"):
        NetConfig(MAC[:5]).pack()


def test_a_mac_reads_as_it_is_written():
    assert format_mac(parse_mac("52:54:00:AB:cd:0e")) == "52:54:00:ab:cd:0e"


@pytest.mark.parametrize(
    "text",
    ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "5:54:0:12:34:567", "52:54:00:12:34:+5"],
)
def test_what_is_no_mac_is_refused(text):
    with pytest.raises(ConfigError, match="six hexadecimal bytes"):
        parse_mac(text)


def test_a_group_address_is_refused():
    with pytest.raises(ConfigError, match="group address"):
        parse_mac("01:00:5e:00:00:01")
