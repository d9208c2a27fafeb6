"""Trials that measured something else than they were asked to."""

from typing import Any

import pytest

from mpnet.experiment.factors import Factors, plain
from mpnet.experiment.possible import ImpossibleError
from mpnet.experiment.record import SCHEMA, Machine, Record
from mpnet.experiment.strayed import strayed
from mpnet.virtio.features import Feature, has, names


def record(factors: Factors, workers: int = 1, device_cpus: int = 1, moved: tuple[int, ...] = (1,)) -> Record:
    """Of a trial in which the device gave all that was asked for."""
    machine = Machine(
        host="h", kernel="k", cpu="c", cpus=2, memory_bytes=1, governor="", driver_cpus=[0],
        device_cpus=list(range(device_cpus)), versions={}, commit="",
    )  # fmt: skip
    return Record(
        schema=SCHEMA, trial="1-1", order=0, replicate=1, host="h", started="", seconds=1.0,
        factors=plain(factors),
        effective={"workers": [{}] * workers, "features": names(factors.feature_bits())},
        queues=[{"rx_packets": 0.0, "tx_packets": float(count)} for count in moved], machine=machine,
    )  # fmt: skip


def test_a_trial_that_did_what_it_was_asked_is_none() -> None:
    factors = Factors(ring="packed", segments=4, features="+host_tso6", queue_pairs=2)
    assert strayed(record(factors, workers=2, device_cpus=2, moved=(1, 1)), factors) == []


def test_more_workers_than_processors() -> None:
    factors = Factors(queue_pairs=2)
    assert strayed(record(factors, workers=2, moved=(1, 1)), factors) == ["2 workers shared 1 processor"]
    assert strayed(record(factors, 3, 2, (1, 1)), factors) == ["3 workers shared 2 processors"]


@pytest.mark.parametrize(
    ("asked", "lacks", "said"),
    [
        ({"ring": "packed"}, Feature.RING_PACKED, "did not offer what the driver asked for: RING_PACKED"),
        ({"segments": 2}, Feature.GUEST_USO6, "did not offer what the driver asked for: GUEST_USO6"),
        ({"driver": "qemu", "features": "+host_uso"}, Feature.HOST_USO, "asked for: HOST_USO"),
    ],
)
def test_a_feature_that_was_not_to_be_had(asked: dict[str, Any], lacks: Feature, said: str) -> None:
    factors = Factors(**asked)
    told = record(factors)
    told.effective["features"].remove(lacks.name)
    (reason,) = strayed(told, factors)
    assert said in reason


def test_a_feature_that_was_to_be_left_out() -> None:
    factors = Factors(features="-mrg_rxbuf")
    told = record(factors)
    assert strayed(told, factors) == []
    told.effective["features"].append("MRG_RXBUF")
    assert strayed(told, factors) == ["negotiated although it was to be left out: MRG_RXBUF"]


def test_queue_pairs_that_had_flows_and_moved_nothing() -> None:
    factors = Factors(queue_pairs=4, flows=4)
    assert strayed(record(factors, 4, 4, (5, 0, 0, 1)), factors) == ["2 of 4 queue pairs moved no packet"]
    assert strayed(record(factors, 4, 4, (0, 0, 0, 0)), factors) == [], "what moves nothing has no figures"
    fewer = Factors(queue_pairs=4, flows=3)
    assert strayed(record(fewer, 4, 4, (5, 5, 5, 0)), fewer) == []


def test_udp_segments_are_taken_whole_by_a_driver_with_both_families() -> None:
    """The worker, as the kernel, hands them on whole only then: with one of the two segmenting is measured."""
    bits = Factors(direction="rx", segments=4).feature_bits()
    assert has(bits, Feature.GUEST_USO4)
    assert has(bits, Feature.GUEST_USO6)


def test_flows_of_a_pair_stay_the_same() -> None:
    assert [Factors(flows_per_pair=16, queue_pairs=pairs).all_flows() for pairs in (1, 4)] == [16, 64]
    assert Factors(flows=16, queue_pairs=4).all_flows() == 16
    with pytest.raises(ImpossibleError, match="flows-per-pair and flows are both given"):
        Factors(flows=16, flows_per_pair=4)
