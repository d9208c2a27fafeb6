"""Feature bits: names, sets and dependencies."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.virtio.features import DEPENDENCIES, Feature, bit_numbers, has, mask, missing_dependencies, names


def test_numbers_are_those_of_the_specification():
    told = {
        Feature.CSUM: 0,
        Feature.MRG_RXBUF: 15,
        Feature.MQ: 22,
        Feature.VHOST_LOG_ALL: 26,
        Feature.RING_EVENT_IDX: 29,
        Feature.VHOST_USER_PROTOCOL_FEATURES: 30,
        Feature.VERSION_1: 32,
        Feature.RING_PACKED: 34,
        Feature.HOST_USO: 56,
        Feature.RSS: 60,
        Feature.SPEED_DUPLEX: 63,
    }
    assert {feature: int(feature) for feature in told} == told


def test_no_two_features_share_a_bit():
    assert len(Feature.__members__) == len(set(Feature))


def test_unknown_bits_are_named_by_number():
    assert names(mask(Feature.MAC) | 1 << 4 | 1 << 70) == ["bit_4", "MAC", "bit_70"]


@given(st.sets(st.sampled_from(list(Feature))))
def test_a_mask_holds_exactly_its_features(features):
    bits = mask(*features)
    assert {feature for feature in Feature if has(bits, feature)} == features
    assert names(bits) == [feature.name for feature in sorted(features)]


@given(st.integers(0, 2**64 - 1))
def test_bit_numbers_make_up_the_set(bits):
    assert sum(1 << number for number in bit_numbers(bits)) == bits


@pytest.mark.parametrize(
    ("features", "missing"),
    [
        ((Feature.GUEST_TSO4,), ["GUEST_TSO4 needs GUEST_CSUM"]),
        ((Feature.GUEST_TSO4, Feature.GUEST_CSUM), []),
        ((Feature.MQ,), ["MQ needs CTRL_VQ"]),
        ((Feature.HOST_ECN, Feature.CSUM), ["HOST_ECN needs HOST_TSO4 or HOST_TSO6"]),
        ((Feature.HOST_ECN, Feature.CSUM, Feature.HOST_TSO6), []),
        ((Feature.HASH_TUNNEL, Feature.CTRL_VQ), ["HASH_TUNNEL needs RSS or HASH_REPORT"]),
    ],
)
def test_missing_dependencies_are_told(features, missing):
    assert [str(lack) for lack in missing_dependencies(mask(*features))] == missing


def test_all_features_together_lack_nothing():
    assert missing_dependencies(mask(*Feature)) == []


@given(st.sampled_from(sorted(DEPENDENCIES)))
def test_a_feature_alone_lacks_each_of_its_needs(feature):
    assert [lack.any_of for lack in missing_dependencies(mask(feature))] == list(DEPENDENCIES[feature])


def test_the_documentation_names_every_feature_with_its_bit() -> None:
    """Whoever looks for one finds whether it is there."""
    rows = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text().split("## vhost-user")[0]
    between_ends = {Feature.VHOST_USER_PROTOCOL_FEATURES}
    for feature in set(Feature) - between_ends:
        name = feature.name.removeprefix("VHOST_")
        row = next((row for row in rows.splitlines() if re.search(rf"\b{name}\b", row)), "")
        assert row, f"{name} is not in docs/protocol.md"
        assert re.search(rf"\b{int(feature)}\b", row), f"{name} is said to have another bit than {int(feature)}"
