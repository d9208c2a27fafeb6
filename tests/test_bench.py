"""The bench: its arithmetic, the frames it makes, and a short run against the other systems; never a speed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

from mpnet.bench.bed import Bed, Wire
from mpnet.bench.case import CASES, NAMES, RINGS_ALONE, chosen
from mpnet.bench.generator import frames
from mpnet.bench.ping import echo_request, percentiles
from mpnet.bench.pool import drain, make_pool, refill
from mpnet.bench.statistics import compare, noise, ratio, width
from mpnet.bench.systems.registry import OURS, PEERS, SYSTEMS
from mpnet.bench.work import amount, rate
from mpnet.cli import bench as command
from mpnet.errors import MpnetError
from mpnet.experiment import runner
from mpnet.experiment.benchmark import QUICK, Choice, benchmark, document
from mpnet.experiment.factors import Factors
from mpnet.experiment.local import run_here
from mpnet.experiment.record import FIGURES, Record
from mpnet.experiment.results import read_records
from mpnet.experiment.run import run
from mpnet.experiment.sweep import parse
from mpnet.experiment.work import Done, Stand
from mpnet.guest.driver import QueuePair
from mpnet.guest.memory import GuestMemory
from mpnet.guest.queue import Queue
from mpnet.virtio.features import Feature, mask
from tests.python_device import PythonDevice
from tests.real.asked import LINUX_GUEST, NETWORK, real

ROUNDS = 2
"""Fewer than a figure may rest on, and than the command takes."""
PATIENCE = 60.0
"""Seconds: a limit for what hangs."""
MPNET = [sys.executable, "-c", "from mpnet.cli.main import main; main()"]
WIRE = Wire("tap0", 2, b"\x02\0\0\0\0\x09", "198.18.1.1", "198.18.1.2")


def test_more_is_better_where_not_said_otherwise() -> None:
    assert ratio(200, 100, lower=False) == 2
    assert ratio(50, 100, lower=False) == 0.5
    assert ratio(50, 100, lower=True) == 2
    assert ratio(200, 100, lower=True) == 0.5


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio(0, 100, lower=True) is None
    assert ratio(100, 0, lower=False) is None


def test_a_result_has_medians_ratio_and_spread_of_the_system() -> None:
    result = compare("tx", "qemu", "pps", [30, 10, 20], [1, 4, 2], lower=False)
    assert (result.median, result.mpnet_median, result.ratio) == (2, 20, 10)
    assert result.spread == (1, 4)
    assert result.samples == ([30, 10, 20], [1, 4, 2])


def test_a_drift_that_all_systems_share_is_no_noise() -> None:
    ours, theirs = [100, 80, 60, 40, 20], [50, 40, 30, 20, 10]
    assert width(ours, theirs) == 0
    assert noise(compare("tx", "qemu", "pps", ours, theirs, lower=False)) == ""


def test_one_round_that_went_wrong_is_borne_and_several_are_noise() -> None:
    theirs = [100] * 5
    assert noise(compare("tx", "qemu", "pps", [200, 201, 900, 199, 202], theirs, lower=False)) == ""
    said = noise(compare("tx", "qemu", "pps", [200, 300, 900, 100, 202], theirs, lower=False))
    assert said.startswith("tx, qemu: the rounds' ratios differ by 50%")


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_too_few_rounds_with_figures_are_noise(ours: list[float], theirs: list[float]) -> None:
    assert width(ours, theirs) is None
    assert "nothing arrived" in noise(compare("tx", "qemu", "pps", ours, theirs, lower=False))


def test_what_did_not_arrive_does_not_count() -> None:
    case = CASES["tx-64-flows"]
    assert rate(case, WIRE, 1000, 64 * 1000, 2.0) == 500
    assert rate(case, WIRE, 1000, 64 * 500, 2.0) == 250
    assert rate(case, WIRE, 0, 0, 2.0) == 0


def test_headers_saved_by_coalescing_do_not_count_as_lost() -> None:
    case = CASES["tx-udp-stream"]
    assert rate(case, WIRE, 440, 10 * (42 + 44 * 1472), 1.0) == 440
    assert rate(case, WIRE, 440, 220 * 1472, 1.0) == 220


def test_offloads_are_counted_in_bits() -> None:
    case = CASES["tx-tso"]
    assert amount(case, WIRE) == pytest.approx((54 + 44 * 1460) * 8e-9)
    assert amount(CASES["tx-64-flows"], WIRE) == 1


def test_what_is_received_counts_from_behind_the_first_burst() -> None:
    """Eight frames were used before, one is shown first, and four when that has been taken."""
    payload, headers, entries = 60, 42, 8
    with (
        GuestMemory((4 << 20,)) as memory,
        closing(Queue(memory, 0, entries)) as rx,
        closing(Queue(memory, 1, 8)) as tx,
    ):
        pool = make_pool(QueuePair(rx, tx, mask(Feature.VERSION_1, Feature.MRG_RXBUF)), headers)
        pool.state[0].patience = int(PATIENCE * 1e9)
        device, held = PythonDevice(rx), []

        def use(frames: int) -> None:
            """Once the driver has given all it has."""
            while len(held) < entries:
                held.extend(device.heads())
            for _ in range(frames):
                device.give_back(held.pop(), 12 + headers + payload)

        def catch_up() -> None:
            use(1)
            use(4)

        refill(rx.virtqueue, pool)
        use(entries)
        with ThreadPoolExecutor(1) as threads:
            caught_up = threads.submit(catch_up)
            assert drain(rx.virtqueue, pool, (entries + 1 + 4) * payload) == 4 * payload
            caught_up.result()
        assert pool.state[0].payload == (entries + 1 + 4) * payload
        assert pool.state[0].nanoseconds > 0


def test_percentiles_are_in_microseconds() -> None:
    import numpy as np  # noqa: PLC0415 - of this test alone

    found = percentiles(np.arange(1, 1002, dtype=np.int64) * 1000)
    assert found == {"p50": 501, "p99": 991, "p99.9": pytest.approx(1000)}


@pytest.mark.parametrize("name", ["rx-64-flows", "tx-tcp-stream", "tx-udp-stream"])
def test_each_flow_has_a_frame_that_is_right_on_the_wire(name: str) -> None:
    case = CASES[name]
    ports = set()
    for data in frames(case.stream(WIRE)):
        packet, again = Ether(data), Ether(data)
        layer = TCP if case.tcp else UDP
        del again[IP].chksum, again[layer].chksum
        assert bytes(again) == data
        ports.add(packet[layer].sport)
        assert len(data) == case.frame_bytes
    assert len(ports) == case.flows


def test_the_ping_is_right_on_the_wire() -> None:
    data = echo_request(WIRE)
    again = Ether(data)
    del again[IP].chksum, again[ICMP].chksum
    assert bytes(again) == data
    assert (again[IP].src, again[IP].dst, len(data)) == (WIRE.guest, WIRE.host, 64)


def test_the_command_knows_every_peer() -> None:
    assert tuple(peer.name for peer in PEERS) == command._PEERS
    assert OURS.name == "mpnet"


def test_every_case_has_a_system_that_serves_it() -> None:
    assert all(OURS.serves(case) for case in CASES.values())
    figures = [f"{case.name}-{figure.name}" for case in CASES.values() for figure in case.figures]
    assert len(set(figures)) == len(figures)
    assert {figure.measure for case in CASES.values() for figure in case.figures} <= set(FIGURES)


@pytest.mark.parametrize(
    ("name", "count"),
    [("rtt", 2), ("ring", 16), ("ring-64", 8), ("ring-64-echo", 4), ("tx", 4), ("guest", 2), ("scale", 1)],
)
def test_what_several_cases_begin_with_names_them_all(name: str, count: int) -> None:
    assert name in NAMES
    assert len(chosen((name,))) == count
    assert all(case.name == name or case.name.startswith(f"{name}-") for case in chosen((name,)))


@pytest.mark.parametrize("name", ["ring-64-tx-split", "rx-udp-stream"])
def test_a_case_is_not_the_group_of_what_begins_as_it(name: str) -> None:
    assert [case.name for case in chosen((name,))] == [name]


@real(NETWORK)
def test_a_peer_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start and its turns: DPDK 25.11 refused an option, and the whole run ended."""

    @contextmanager
    def stand(_bed: Bed, factors: Factors) -> Iterator[Stand]:
        if factors.system == "limit":
            raise MpnetError("limit ended with status 1", "it says why")
        yield Stand(Turns())

    class Turns:
        def run(self, seconds: float) -> Done:
            return Done(seconds, 1, 0.0, {"pps": 10.0, "cpu_ns_per_packet": 1.0})

    monkeypatch.setattr(runner, "stand", stand)
    made = benchmark(Choice(cases=("ring-64-tx-split",), peers=("limit",), rounds=5, duration=0.01))
    for _ in run(made.sweep, tmp_path / "r", runner.run):
        pass
    records = read_records(tmp_path / "r")
    whole = document(made, records)
    assert {result.system for result in whole.results} == {"mpnet"}
    assert whole.environment.skipped == {"limit in ring-64-tx-split": "limit ended with status 1: it says why"}
    assert [len(result.samples[0]) for result in whole.results] == [5, 5]


@real("qemu", "dpdk")
@pytest.mark.parametrize("peers", [(), ("limit",)])
def test_a_choice_is_a_sweep_of_all_that_serve_its_cases(peers: tuple[str, ...]) -> None:
    made = benchmark(Choice(cases=("tx-tso", "ring-64"), peers=peers, rounds=7, duration=0.5))
    systems = [system for system in SYSTEMS.values() if system is OURS or not peers or system.name in peers]
    cases = [case for case in CASES.values() if case.name == "tx-tso" or case.name.startswith("ring-64-")]
    expected = [(case.name, system.name) for case in cases for system in systems if system.serves(case)]
    assert [(each.case, each.system) for each in made.sweep.combinations] == expected
    design = made.sweep.design
    assert (design.replicates, design.seconds, design.warm_up) == (7, 0.5, 0.5)


def test_a_first_impression_is_mpnet_alone_once() -> None:
    made = benchmark(Choice(cases=(), peers=(), rounds=5, duration=0.5, quick=True))
    assert [(each.case, each.system) for each in made.sweep.combinations] == [(name, "mpnet") for name in QUICK]
    assert made.sweep.design.replicates == 1
    made = benchmark(Choice(cases=("rtt",), peers=(), rounds=5, duration=0.5, quick=True))
    assert [each.case for each in made.sweep.combinations] == ["rtt-interrupt", "rtt-polling"]


def test_a_first_impression_is_a_line() -> None:
    results = [
        {"case": "tx-tso", "median": 24.56, "unit": "Gbps"},
        {"case": "rtt-interrupt-p50", "median": 45.678, "unit": "us"},
    ]
    whole = {"results": results, "environment": {"flags": {"duration": 1.0}}}
    assert command._line(whole) == "tx-tso 24.6 Gbps, rtt-interrupt-p50 45.7 us (mpnet, one turn of 1 s each)"


_SYSTEMS = {
    "tx-64-flows": ("mpnet", "limit", "qemu", "dpdk"),
    "tx-tso": ("mpnet", "limit", "qemu"),
    "rx-64-flows": ("mpnet", "limit", "qemu", "dpdk"),
    "rx-udp-stream": ("mpnet", "limit", "qemu", "dpdk"),
    "rtt-interrupt": ("mpnet", "limit"),
    "ring-1500-echo-packed-virtio-user": ("mpnet", "dpdk"),
    "tx-tcp-stream": ("limit",),
    "rtt-polling": ("limit", "dpdk"),
    "ring-64-tx-split": ("limit", "dpdk"),
    "guest-rtt": ("qemu",),
}
"""Every kind of work that a system does in a way of its own, once."""


@pytest.fixture(scope="module")
@real("dpdk", NETWORK, *LINUX_GUEST)
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """One run, short, of plain and offloaded frames both ways and of round trips."""
    head = f"[sweep]\nreplicates = {ROUNDS}\nseconds = 0.1\nwarm-up = 0\n"
    trials = [f'[[trial]]\ncase = "{case}"\nsystem = "{each}"\n' for case in _SYSTEMS for each in _SYSTEMS[case]]
    sweep = parse(head + "".join(trials), Path("bench.toml"))
    path = tmp_path_factory.mktemp("bench") / "results"
    for progress in run(sweep, path, run_here):
        assert progress.last is None or not progress.last.error, progress.last.error
    return read_records(path)


def test_every_system_did_the_work_of_its_cases_turn_by_turn(records: list[Record]) -> None:
    done = [(record.factors["case"], record.replicate, record.factors["system"]) for record in records]
    assert done == [
        (case, number, system)
        for case, systems in _SYSTEMS.items()
        for number in range(1, ROUNDS + 1)
        for system in systems
    ]
    for record in records:
        measures = {figure.measure for figure in CASES[record.factors["case"]].figures}
        assert set(record.figures) == measures, record
        assert record.machine is not None
        assert record.factors["system"] in record.machine.versions
        # On a busy machine a system may be off its processor for a whole turn as short as these.
        assert all(value >= 0 for value in record.figures.values()), record


@pytest.fixture(scope="module")
def found(records: list[Record]) -> dict:
    """The document of those that are compared with mpnet."""
    made = benchmark(Choice(cases=(), peers=(), rounds=ROUNDS, duration=0.1))
    compared = [record for record in records if "mpnet" in _SYSTEMS[record.factors["case"]]]
    built: dict = json.loads(msgspec.json.encode(document(made, compared)))
    return built


def test_cases_that_hang_on_it_say_how_far_their_processors_were_apart(records: list[Record]) -> None:
    for record in records:
        assert record.conditions is not None
        apart = record.conditions.distance_ns
        # On a busy machine neither thread may come to its turns in time.
        hangs_on_it = CASES[record.factors["case"]].kind in ("tx", "rx", *RINGS_ALONE)
        expected = hangs_on_it and apart is not None
        assert (apart is not None and apart > 0) == expected, record


def test_a_case_is_noisy_whose_processors_were_moved_apart_between_its_turns(records: list[Record]) -> None:
    made = benchmark(Choice(cases=(), peers=(), rounds=ROUNDS, duration=0.1))

    def said(*distances: float | None, case: str = "ring-1500-echo-packed-virtio-user") -> str:
        own = [record for record in records if record.factors["case"] == case]
        for record, apart in zip(own, itertools.cycle(distances), strict=False):
            assert record.conditions is not None
            record.conditions.distance_ns = apart
        return "\n".join(document(made, own).environment.noise)

    assert "62 to 310 ns apart" in said(310, 62)
    assert "apart" not in said(310)
    assert "apart" not in said(None)
    # What it does to these shows in their ratios.
    assert "apart" not in said(310, 62, case="tx-tso")


def test_the_document_has_its_schema(found: dict) -> None:
    assert set(found) == {"schema", "environment", "results"}
    assert found["schema"] == 1
    keys = {"case", "system", "unit", "samples", "median", "mpnet_median", "ratio", "spread"}
    assert all(set(result) == keys for result in found["results"])
    environment = found["environment"]
    assert set(environment) == {
        "kernel", "cpu", "cpus", "driver_cpu", "device_cpu", "versions", "flags", "commit", "load_average",
        "steal", "wait", "distance_ns", "noise", "skipped",
    }  # fmt: skip
    assert {"mpnet", "limit", "qemu", "dpdk", "python", "numba", "numpy"} <= set(environment["versions"])
    assert environment["flags"] == {
        "cases": [], "peers": [], "rounds": ROUNDS, "duration": 0.1, "quick": False,
    }  # fmt: skip
    named = {(result["case"], result["system"], result["unit"]) for result in found["results"]}
    assert {
        ("tx-64-flows", "dpdk", "pps"), ("tx-tso", "qemu", "Gbps"), ("rtt-interrupt-p99.9", "limit", "us"),
        ("ring-1500-echo-packed-virtio-user", "dpdk", "pps"),
        ("ring-1500-echo-packed-virtio-user-cost", "dpdk", "ns/packet"),
    } <= named  # fmt: skip


def test_samples_are_positive_and_of_every_round(found: dict) -> None:
    for result in found["results"]:
        assert [len(samples) for samples in result["samples"]] == [ROUNDS, ROUNDS]
        # On a busy machine a system may be off its processor for a whole turn as short as these.
        assert all(sample >= 0 for samples in result["samples"] for sample in samples), result
        assert result["median"] > 0, result
        low, high = result["spread"]
        assert low <= result["median"] <= high


@real(NETWORK)
def test_the_command_keeps_what_it_did_and_goes_on_with_it(tmp_path: Path) -> None:
    command = [*MPNET, "bench", "--case", "ring-64-tx-split", "--peer", "limit", "--duration", "0.01", "--json"]
    command += ["-o", str(tmp_path / "r")]
    first, again = (
        subprocess.run(command, capture_output=True, text=True, check=False, timeout=240) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "10 trials, 10 of them done" in again.stderr
    assert json.loads(first.stdout) == json.loads(again.stdout)
    results = json.loads(first.stdout)["results"]
    assert [(result["case"], result["system"]) for result in results] == [
        ("ring-64-tx-split", "mpnet"), ("ring-64-tx-split", "limit"),
        ("ring-64-tx-split-cost", "mpnet"), ("ring-64-tx-split-cost", "limit"),
    ]  # fmt: skip
    pps = [record.figures["pps"] for record in read_records(tmp_path / "r")]
    assert results[1]["samples"] == [pps[0::2], pps[1::2]]


@real(NETWORK)
def test_it_ends_in_order_when_interrupted() -> None:
    before = _folders()
    process = subprocess.Popen(
        [*MPNET, "bench", "--duration", "0.2", "--peer", "qemu"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any(each.name.startswith("mpnet-trial-") for each in _folders() - before):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything is taken down" in said
    assert not _folders() - before


def _folders() -> set[Path]:
    return {each for name in ("bench", "trial") for each in Path("/tmp").glob(f"mpnet-{name}-*")}  # noqa: S108 - its
