"""What is decided without I/O: what workers are told, who serves which pair, how long to wait, the offer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.config.device import spread
from mpnet.control.backoff import HEALTHY_SECONDS, MOST_SECONDS, Backoff
from mpnet.control.desired import Desired, RingSetting
from mpnet.control.offer import offered_features
from mpnet.rpc.worker import AttachPair, SetMemory, SetRing
from mpnet.vhost_user.effects import MemoryRegion
from mpnet.virtio.features import Feature, has, mask, missing_dependencies


def _setting(number: int, base: int | None = None, err: int | None = None) -> RingSetting:
    return RingSetting(number, 256, (16, 32, 64), 0, enabled=True, fds=(100 + number, None, err), base=base)


def test_a_pair_is_handed_over_with_its_rings_and_pair_0_with_the_control_queue() -> None:
    desired = Desired([10, 11])
    desired.rings = {number: _setting(number) for number in (0, 1, 3, 4)}
    told = [(type(message), getattr(message, "index", None), fds) for message, fds in desired.pair_errands(0)]
    assert told == [
        (AttachPair, None, [10]),
        (SetRing, 0, [100]),
        (SetRing, 1, [101]),
        (SetRing, 4, [104]),
    ]
    assert [getattr(message, "index", None) for message, _ in desired.pair_errands(1)] == [None, 3]


def test_memory_comes_first_with_one_fd_a_region() -> None:
    desired = Desired([10], regions=(MemoryRegion(0, 4096, 1 << 63, 0, 7), MemoryRegion(4096, 4096, 0, 0, 8)))
    message, fds = next(desired.errands([0]))
    assert isinstance(message, SetMemory)
    assert ([region.user_address for region in message.regions], fds) == ([1 << 63, 0], [7, 8])


def test_the_message_says_which_fds_are_there() -> None:
    message, fds = _setting(0, base=9, err=200).errand()
    assert isinstance(message, SetRing)
    assert (message.kick, message.call, message.err, fds, message.base) == (True, False, True, [100, 200], 9)


@given(st.integers(1, 64).flatmap(lambda pairs: st.tuples(st.just(pairs), st.integers(1, pairs))))
def test_any_first_pairs_are_shared_out_evenly(numbers: tuple[int, int]) -> None:
    pairs, workers = numbers
    owners = spread(pairs, workers)
    assert owners[0] == 0
    for enabled in range(1, pairs + 1):
        loads = [owners[:enabled].count(slot) for slot in range(workers)]
        assert max(loads) - min(loads) <= 1


def test_the_first_replacement_does_not_wait_and_a_crash_loop_does() -> None:
    backoff = Backoff()
    delays = [backoff.delay(0.1) for _ in range(12)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == MOST_SECONDS
    assert backoff.delay(HEALTHY_SECONDS) == 0


@pytest.mark.parametrize("pairs", [1, 4])
def test_what_is_offered_is_sound_and_follows_the_tap(pairs: int) -> None:
    guest = mask(Feature.GUEST_CSUM, Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_ECN)
    uso = mask(Feature.GUEST_USO4, Feature.GUEST_USO6)
    for offloads in (0, mask(Feature.GUEST_CSUM), guest, guest | uso):
        offered = offered_features(offloads, pairs)
        assert missing_dependencies(offered) == []
        assert offered & (guest | uso) == offloads
        assert has(offered, Feature.HOST_USO) == has(offloads, Feature.GUEST_USO4)
        assert has(offered, Feature.MQ) == (pairs > 1)
        assert not offered & mask(Feature.CTRL_RX, Feature.CTRL_VLAN, Feature.CTRL_RX_EXTRA)
