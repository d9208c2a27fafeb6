"""Experiments: sweeps and what is wrong with them, order, results that survive an interruption."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from mpnet.errors import MpnetError
from mpnet.experiment import templates
from mpnet.experiment.factors import Factors, plain
from mpnet.experiment.linux_guest import _datagrams
from mpnet.experiment.plan import Trial, plan, sessions
from mpnet.experiment.record import SCHEMA, Record
from mpnet.experiment.results import MANIFEST, TRIALS, read_manifest, read_records
from mpnet.experiment.run import run
from mpnet.experiment.sweep import Sweep, parse

SWEEP = """\
[sweep]
replicates = 3
skip-impossible = true
[fixed]
flows = 8
[factors]
queue-pairs = [1, 2]
workers = [1, 2]
"""


def read(text: str) -> Sweep:
    return parse(text, Path("s.toml"))


def test_a_full_factorial_has_every_possible_combination_once() -> None:
    pairs = [(each.queue_pairs, each.workers) for each in read(SWEEP).combinations]
    assert pairs == [(1, 1), (2, 1), (2, 2)]


def test_listed_trials_are_crossed_with_factors() -> None:
    sweep = read("[[trial]]\nflows = 1\n[[trial]]\nflows = 2\n[factors]\nring = ['split', 'packed']\n")
    assert [(each.flows, each.ring) for each in sweep.combinations] == [
        (1, "split"), (1, "packed"), (2, "split"), (2, "packed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[sweep]\nreplicate = 2\n", 2, "did you mean 'replicates'?"),
        ("[sweep]\nseconds = 0\n", 2, "seconds is 0, expected 0.01 to 3600"),
        ("[factors]\nflows = 3\n", 2, "write flows = [ … ]"),
        ("[factors]\nflows = [1, 1]\n", 2, "level 1 twice"),
        ("[factors]\n\nflows = [1, 'x']\n", 3, "Expected"),
        ("[fixed]\nworkers = 2\n", 2, "expected 1 at most"),
        ("[factors]\nqueue-pairs = [1, 2]\nworkers = [2]\n", 3, "skip-impossible = true"),
        ("[fixed]\nflows = 1\n[factors]\nflows = [1, 2]\n", 4, "see s.toml:2"),
        ("[fixed]\nring-size = 300\n", 2, "power of two"),
        ("[fixed]\nfeatures = '+tso'\n", 2, "'+tso'"),
        ("[fixed]\nengine = 'x'\n", 2, "expected one of auto"),
        ("[fixed]\npoll-us = -1\n", 2, "expected 0 to"),
        ("[fixed]\nbackend = 'x'\n", 2, "expected one of tap"),
        ("[fixed]\nbackend = 'null'\ndirection = 'rx'\n", 2, "direction tx alone"),
        ("[fixed]\nbackend = 'echo'\ndirection = 'both'\ngro = true\n", 4, "gro is for a TAP"),
        ("[fixed]\ngap-us = 5\n", 2, "goes with direction rtt"),
        ("[fixed]\nframe-bytes = 1515\n", 2, "expected 60 to 1514"),
        ("[fixed]\nprotocol = 'tcp'\nframe-bytes = 1514\nsegments = 45\n", 4, "44 such frames"),
        ("[fixed]\nsystem = 'qemu'\nworkers = 1\n", 3, "system qemu runs with 0"),
        ("[fixed]\nsystem = 'dpdk'\nqueue-pairs = 17\n", 3, "system dpdk runs with 1 to 16"),
        ("[fixed]\nsystem = 'dpdk'\ngro = true\n", 3, "an option of mpnet's devices"),
        ("[fixed]\nsystem = 'qemu'\ndirection = 'rtt'\n", 3, "driver = 'qemu'"),
        ("[fixed]\nsystem = 'limit'\n", 2, "cases of the bench alone"),
        ("[fixed]\ndriver = 'testpmd'\nsystem = 'qemu'\n", 3, "driver testpmd runs with mpnet, dpdk"),
        ("[fixed]\ndriver = 'testpmd'\ndirection = 'rtt'\n", 3, "driver testpmd runs with tx, rx, both"),
        ("[fixed]\ndriver = 'testpmd'\nqueue-pairs = 2\nflows = 1\n", 4, "flows = 2, or more"),
        ("[fixed]\ndriver = 'testpmd'\nfeatures = '-csum'\n", 3, "mrg_rxbuf alone"),
        ("[fixed]\ndriver = 'qemu'\nbackend = 'null'\n", 3, "driver qemu runs with tap"),
        ("[fixed]\ndriver = 'qemu'\nring-size = 128\n", 3, "256, 512, 1024"),
        ("[fixed]\ndriver = 'qemu'\nprotocol = 'tcp'\nframe-bytes = 100\n", 4, "frame-bytes = 1514"),
        ("[fixed]\ndriver = 'qemu'\nfeatures = '-version_1'\n", 3, "a choice of csum"),
        ("[fixed]\ndriver = 'qemu'\nflows = 200\n", 3, "128 streams"),
        ("[sweep]\nseconds = 1.5\n[fixed]\ndriver = 'qemu'\n", 2, "seconds = 2"),
        ("[fixed]\ncase = 'x'\n", 2, "expected one of tx-64-flows"),
        ("[fixed]\ncase = 'tx-tso'\nsystem = 'dpdk'\n", 3, "cannot do the work of case tx-tso"),
        ("[fixed]\ncase = 'tx-tso'\nflows = 1\n", 3, "brings all with it"),
        ("[other]\n", 1, "unknown table"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(MpnetError) as told:
        read(text)
    assert f"s.toml:{line}: " in str(told.value)
    assert said in str(told.value)


def test_no_toml_is_told_with_its_line() -> None:
    with pytest.raises(MpnetError, match=r"s\.toml is not a TOML file: .*line 2"):
        read("[sweep]\nx = = 2\n")


def test_each_block_has_each_combination_in_an_order_of_its_own() -> None:
    trials = plan(read(SWEEP.replace("[1, 2]\nworkers", "[1, 2, 3, 4, 5, 6]\nworkers")))
    blocks = [[trial for trial in trials if trial.replicate == number] for number in (1, 2, 3)]
    assert [trial.order for trial in trials] == list(range(len(trials)))
    assert len({frozenset(trial.factors for trial in block) for block in blocks}) == 1
    assert len({tuple(trial.factors for trial in block) for block in blocks}) == 3
    assert len({trial.id for trial in trials}) == len(trials)


def test_the_order_is_the_seeds() -> None:
    same, other = SWEEP.replace("[sweep]", "[sweep]\nseed = 1"), SWEEP.replace("[sweep]", "[sweep]\nseed = 2")
    assert plan(read(SWEEP)) == plan(read(same))
    assert plan(read(SWEEP)) != plan(read(other))


def test_a_case_has_its_systems_turn_by_turn_and_in_one_session() -> None:
    text = "[sweep]\nreplicates = 2\n[factors]\ncase = ['tx-64-flows', 'tx-tso']\nsystem = ['mpnet', 'qemu']\n"
    found = list(sessions(plan(read(text))))
    turns = [[(trial.factors.case, trial.factors.system) for trial in session] for session in found]
    assert turns == [[(case, "mpnet"), (case, "qemu")] * 2 for case in ("tx-64-flows", "tx-tso")]
    assert [len(session) for session in sessions(plan(read(SWEEP)))] == [1] * 9


def test_a_guests_datagrams_count_when_they_were_read() -> None:
    # iperf3 calls those lost that it missed between two it read, not those it never came to.
    received = {"bytes": 400 * 958, "seconds": 2.0, "packets": 500, "lost_packets": 100}
    found = _datagrams([("rx", {"sum_sent": {"packets": 1000}, "sum_received": received})], 1000)
    assert (found["pps"], found["rx_pps"], found["tx_pps"]) == (200, 200, 0)
    assert found["loss"] == pytest.approx(0.6)
    assert found["gbps"] == pytest.approx(200 * 1000 * 8e-9)


def record(trial: Trial, error: str = "") -> Record:
    return Record(
        schema=SCHEMA, trial=trial.id, order=trial.order, replicate=trial.replicate, host="h", started="",
        seconds=1.0, factors=plain(trial.factors), figures={} if error else {"pps": 1.0}, error=error,
    )  # fmt: skip


class CutError(Exception):
    """The power goes."""


class Runner:
    """Runs nothing, but notes what it was to run; the power goes after ``lives`` trials."""

    def __init__(self, lives: int = 1000, failing: str = "") -> None:
        self.ran: list[str] = []
        self.lives = lives
        self.failing = failing

    def __call__(self, trials: Iterable[Trial]) -> Iterator[Record]:
        for trial in trials:
            if len(self.ran) == self.lives:
                raise CutError
            self.ran.append(trial.id)
            yield record(trial, "no luck" if trial.id == self.failing else "")


def test_an_interrupted_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    sweep, first, second = read(SWEEP), Runner(lives=4), Runner()
    with pytest.raises(CutError):
        list(run(sweep, tmp_path / "r", first))
    lines = tmp_path / "r" / TRIALS
    # The machine went down while the fourth record was written.
    lines.write_bytes(lines.read_bytes()[:-20])
    progress = list(run(sweep, tmp_path / "r", second))
    assert first.ran[:3] + second.ran == [trial.id for trial in plan(sweep)]
    assert (progress[0].done, progress[0].total) == (3, 9)
    assert progress[0].repaired > 0
    assert [each.trial for each in read_records(tmp_path / "r")] == [trial.id for trial in plan(sweep)]
    assert next(iter(run(sweep, tmp_path / "r", Runner(lives=0)))).done == 9


def test_failed_trials_are_tried_again_and_count_once(tmp_path: Path) -> None:
    sweep = read(SWEEP)
    list(run(sweep, tmp_path / "r", Runner(failing="2-1")))
    assert [each.trial for each in read_records(tmp_path / "r") if each.error] == ["2-1"]
    again = Runner()
    list(run(sweep, tmp_path / "r", again))
    assert again.ran == ["2-1"]
    records = read_records(tmp_path / "r")
    assert len(records) == 9
    assert not any(each.error for each in records)


def test_results_are_of_one_sweep_and_one_process(tmp_path: Path) -> None:
    sweep = read(SWEEP)
    going = run(sweep, tmp_path / "r", Runner())
    next(going)
    with pytest.raises(MpnetError, match="another process is writing"):
        next(run(sweep, tmp_path / "r", Runner()))
    list(going)
    with pytest.raises(MpnetError, match="choose another folder with -o"):
        next(run(read(SWEEP + "#"), tmp_path / "r", Runner()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(MpnetError, match="no folder of results"):
        next(run(sweep, tmp_path / "mine", Runner()))
    assert read_manifest(tmp_path / "r").trials == 9


def test_records_of_another_version_are_refused(tmp_path: Path) -> None:
    list(run(read(SWEEP), tmp_path / "r", Runner()))
    lines = tmp_path / "r" / TRIALS
    one = json.loads(lines.read_text().splitlines()[0]) | {"schema": 99}
    lines.write_text(json.dumps(one) + "\n")
    with pytest.raises(MpnetError, match="schema 99, expected 1"):
        read_records(tmp_path / "r")
    assert (tmp_path / "r" / MANIFEST).exists()


@pytest.mark.parametrize("name", templates.names())
def test_each_template_is_sound(name: str) -> None:
    sweep = read(templates.text(name))
    assert len(sweep.combinations) > 1
    assert sweep.design.question


@pytest.mark.parametrize("name", templates.names())
def test_each_template_holds_what_else_could_explain_its_figures(name: str) -> None:
    text = templates.text(name)
    assert "What else could explain it?" in text
    sweep = parse(text, Path(name))
    pairs = {each.queue_pairs for each in sweep.combinations}
    flows = {(each.flows_per_pair or each.flows / each.queue_pairs) for each in sweep.combinations}
    # Where flows are no factor, as many meet in a ring however many there are.
    if len({each.flows for each in sweep.combinations}) == 1 and len(pairs) > 1 and name != "drivers":
        assert len(flows) == 1, "more queue pairs coalesce better"
    if len({each.ring_size for each in sweep.combinations}) > 1:
        assert {each.gro for each in sweep.combinations} == {False}, "larger rings coalesce better"


def test_trials_survive_the_way_to_another_process() -> None:
    trial = plan(read(SWEEP))[0]
    assert msgspec.json.decode(msgspec.json.encode(trial), type=Trial) == trial
    assert msgspec.convert(plain(trial.factors), Factors) == trial.factors
