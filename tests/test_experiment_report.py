"""Reports and comparisons, on figures that were made up so that their outcome is known."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from mpnet.cli.answer import print_answer
from mpnet.cli.main import cli
from mpnet.errors import MpnetError
from mpnet.experiment import frame
from mpnet.experiment.analysis import effects, estimate, positive_estimate, table
from mpnet.experiment.compare import compare
from mpnet.experiment.plan import Trial, plan
from mpnet.experiment.record import SCHEMA, Record, Series
from mpnet.experiment.report import page
from mpnet.experiment.report.text import percent
from mpnet.experiment.run import run
from mpnet.experiment.side_effects import cautions, companions, efficiencies
from mpnet.experiment.sweep import parse

SWEEP = """\
[sweep]
name = "made up <1>"
question = "Is it true?"
replicates = 4
[factors]
queue-pairs = [2, 4]
ring = ["split", "packed"]
"""


def rate(record_factors: dict[str, object], replicate: int, faster: float) -> float:
    """4 pairs are 1.5 times as fast as 2, packed rings 0.8 times as split ones; replicates differ by 2 %."""
    pairs = 1.5 if record_factors["queue-pairs"] == 4 else 1.0
    ring = 0.8 if record_factors["ring"] == "packed" else 1.0
    return 1e6 * pairs * ring * (1 + 0.01 * (replicate % 3)) * faster


def made_up(path: Path, text: str = SWEEP, faster: float = 1.0) -> Path:
    """A folder of results with known effects."""
    from mpnet.experiment.factors import plain  # noqa: PLC0415 - of this helper alone

    def runner(trials: object) -> Iterator[Record]:
        for trial in plan(sweep):
            factors = plain(trial.factors)
            pps = rate(factors, trial.replicate, faster)
            queues = factors["queue-pairs"]
            series = Series(
                seconds=[0.0, 0.5, 1.0],
                queues={"rx_packets": [[0.0] * 3] * queues, "tx_packets": [[0.0, pps / 2, pps]] * queues},
                workers={},
            )
            yield Record(
                schema=SCHEMA, trial=trial.id, order=trial.order, replicate=trial.replicate, host="h", started="",
                seconds=1.0, factors=factors,
                figures={"pps": pps, "loss": 0.0, "cpu_ns_per_packet": 1e9 / pps, "device_cores": 1.0},
                queues=[{"rx_packets": 0.0, "tx_packets": pps / queues}] * queues, series=series,
                anomalies=["a neighbour"] if trial.order == 0 else [],
            )  # fmt: skip

    sweep = parse(text, path)
    list(run(sweep, path, runner))
    return path


def test_intervals_are_students() -> None:
    found = estimate([9.0, 10.0, 11.0])
    assert found.mean == 10
    assert (found.low, found.high) == pytest.approx((10 - 4.3027 / 3**0.5, 10 + 4.3027 / 3**0.5), rel=1e-4)
    assert estimate([3.0, 3.0]).high == 3


def test_effects_are_those_that_were_put_in(tmp_path: Path) -> None:
    (family,) = frame.read(made_up(tmp_path / "r")).families()
    found = effects(family)
    assert found is not None
    ratios = {(each.factor, each.base, each.level): each.ratio.mean for each in found.levels}
    assert ratios == {
        ("queue-pairs", "2", "4"): pytest.approx(1.5),
        ("ring", "split", "packed"): pytest.approx(0.8),
    }
    assert sum(each.share for each in found.variance) == pytest.approx(1)
    assert {each.name for each in found.variance} == {
        "queue-pairs", "ring", "queue-pairs × ring", "block (replicate)", "residual",  # noqa: RUF001 - as shown
    }  # fmt: skip
    assert not any(row.disagree for row in table(family))


def test_a_page_has_all_in_it_and_needs_no_network(tmp_path: Path) -> None:
    path = made_up(tmp_path / "r")
    said = CliRunner().invoke(cli, ["experiment", "report", str(path)])
    assert said.exit_code == 0, said.output
    text = Path(said.stdout.strip()).read_text()
    assert "made up &lt;1&gt;" in text
    assert "a neighbour" in text
    for part in ("Effects", "Analysis of variance", "Balance", "Scaling efficiency", "Processor time", "steady"):
        assert part in text
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", text), "something is fetched"
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "two pictures share an id"
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    pictures = sorted(each.name for each in (path / "report").glob("*.png"))
    assert "pps-queue-pairs.png" in pictures
    assert text.count("<svg") == len(pictures)


def test_replicates_that_disagree_are_named(tmp_path: Path) -> None:
    path = made_up(tmp_path / "r")
    lines = (path / "trials.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["figures"]["pps"] *= 3
    (path / "trials.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    target = page.write(frame.read(path), tmp_path / "report")
    assert "In 1 configurations the replicates disagree" in target.read_text()


def test_a_comparison_tells_better_from_no_difference(tmp_path: Path) -> None:
    before = frame.read(made_up(tmp_path / "a"))
    after = frame.read(made_up(tmp_path / "b", faster=1.2))
    found = compare(before, after)
    pps = [change for change in found.changes if change.figure == "pps"]
    assert [change.verdict for change in pps] == ["better"] * 4
    assert all(change.low is not None and change.low < 1.2 < (change.high or 0) for change in pps)
    costs = [change for change in found.changes if change.figure == "cpu_ns_per_packet"]
    assert [change.verdict for change in costs] == ["better"] * 4
    same = compare(before, before)
    assert {change.verdict for change in same.changes} == {"no difference shown"}


def test_a_factor_that_was_changed_throughout_is_what_is_compared(tmp_path: Path) -> None:
    ours, theirs = made_up(tmp_path / "a"), made_up(tmp_path / "b", SWEEP + "[fixed]\ngro = true\n", 2.0)
    found = compare(frame.read(ours), frame.read(theirs))
    assert found.factors == {"gro": ("default", "on")}
    assert len(found.changes) == 8
    said = CliRunner().invoke(cli, ["experiment", "compare", str(ours), str(theirs)])
    assert "changed: gro: default → on" in said.output
    assert said.output.count("better") == 8
    with pytest.raises(MpnetError, match="no configuration in common"):
        compare(frame.read(ours), frame.read(made_up(tmp_path / "c", SWEEP.replace("[2, 4]", "[8, 16]"))))


BENCH = """\
[sweep]
replicates = 3
[factors]
case = ["tx-64-flows", "rtt-interrupt"]
system = ["mpnet", "limit"]
"""


def made_up_bench(path: Path, faster: float = 1.0) -> Path:
    """mpnet does 10 of whatever it is; the limit 5, 4, 5 packets a second and 20 µs in each round."""
    from mpnet.experiment.factors import plain  # noqa: PLC0415 - of this helper alone

    def figures(trial: Trial) -> dict[str, float]:
        ours = trial.factors.system == "mpnet"
        if trial.factors.case == "tx-64-flows":
            return {"pps": 10.0 * faster if ours else (5.0, 4.0, 5.0)[trial.replicate - 1]}
        return {"rtt_p50_us": 10.0 if ours else 20.0}

    def runner(trials: Iterable[Trial]) -> Iterator[Record]:
        for trial in trials:
            yield Record(
                schema=SCHEMA, trial=trial.id, order=trial.order, replicate=trial.replicate, host="h", started="",
                seconds=1.0, factors=plain(trial.factors), figures=figures(trial),
            )  # fmt: skip

    list(run(parse(BENCH, path), path, runner))
    return path


def test_the_bench_is_reported_too(tmp_path: Path) -> None:
    path = made_up_bench(tmp_path / "r")
    said = CliRunner().invoke(cli, ["experiment", "report", str(path)])
    assert said.exit_code == 0, said.output
    text = (path / "report" / "report.html").read_text()
    assert "2.15 (" in text  # the geometric mean of 2, 2.5 and 2
    assert "2.00 (2 to 2)" in text


def test_runs_of_the_bench_are_compared(tmp_path: Path) -> None:
    found = compare(frame.read(made_up_bench(tmp_path / "a")), frame.read(made_up_bench(tmp_path / "b", 2.0)))
    verdicts = {change.configuration: (change.ratio, change.verdict) for change in found.changes}
    assert verdicts == {
        "case=tx-64-flows system=mpnet": (pytest.approx(2), "better"),
        "case=tx-64-flows system=limit": (1, "no difference shown"),
        "case=rtt-interrupt system=mpnet": (1, "no difference shown"),
        "case=rtt-interrupt system=limit": (1, "no difference shown"),
    }


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    said = CliRunner().invoke(cli, ["experiment", "report", str(tmp_path)])
    assert said.exit_code == 1
    assert "-m pip install '.[experiments]'" in said.output


def test_percent_has_digits_that_count() -> None:
    assert [percent(share, sign=True) for share in (0.123, -0.0123, 0.00012)] == ["+12 %", "−1.2 %", "+0.01 %"]  # noqa: RUF001 - a minus


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> frame.Results:
    """Results with something changed in each record."""
    lines = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        change(line)
    (path / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return frame.read(path)


def test_the_first_level_of_the_sweep_is_the_baseline(tmp_path: Path) -> None:
    text = SWEEP.replace("[2, 4]", "[4, 2]").replace('["split", "packed"]', '["packed", "split"]')
    (family,) = frame.read(made_up(tmp_path / "r", text)).families()
    found = effects(family)
    assert found is not None
    assert [(each.factor, each.base, each.level) for each in found.levels] == [
        ("queue-pairs", "4", "2"), ("ring", "packed", "split"),
    ]  # fmt: skip
    assert family.configurations[0] == "queue-pairs=4 ring=packed"


def test_an_interval_of_rates_never_reaches_below_zero() -> None:
    wild = [1.0, 10.0, 1000.0]
    assert estimate(wild).low < 0
    found = positive_estimate(wild)
    assert 0 < found.low < found.mean < found.high
    assert found.mean == pytest.approx(10 ** (4 / 3))
    assert positive_estimate([0.0, 1.0, 10.0]).low == 0


def coalescing(line: dict[str, Any]) -> None:
    """4 pairs are 8 times as fast as 2, because their frames coalesce."""
    many = line["factors"]["queue-pairs"] == 4
    line["figures"] |= {"coalesced": 0.9 if many else 0.04, "pps": line["figures"]["pps"] * (8 if many else 1)}


def test_what_changed_with_a_factor_is_said_beside_its_effect(tmp_path: Path) -> None:
    (family,) = changed(made_up(tmp_path / "r"), coalescing).families()
    assert companions(family, "queue-pairs", 2, 4) == [
        "frames coalesced 4.0 % → 90 %", "flows a queue pair 32 → 16",
    ]  # fmt: skip
    assert companions(family, "ring", "split", "packed") == []


def test_an_efficiency_above_one_is_an_anomaly_with_its_reason(tmp_path: Path) -> None:
    path = made_up(tmp_path / "r")
    (family,) = frame.read(path).families()
    assert [each.level for each in efficiencies(family)] == [2, 4, 2, 4]
    assert list(cautions(family)) == []
    (family,) = changed(path, coalescing).families()
    (said,) = cautions(family)
    assert said.startswith("4 queue-pairs with ring=split reach 600 % of 2 times the throughput of 2")
    assert "frames coalesced 4.0 % → 90 %" in said
    assert "nothing scales so" in page.write(frame.read(path), tmp_path / "report").read_text()


def test_the_answer_is_on_the_screen_with_what_to_read_with_care(tmp_path: Path) -> None:
    path = made_up(tmp_path / "r")
    changed(path, coalescing)
    talk = Console(file=io.StringIO(), width=80)
    print_answer(talk, path)
    said = talk.file.getvalue()  # type: ignore[attr-defined]  # a StringIO's
    assert "queue-pairs: 2 → 4: +1,100 %" in said.replace("1100", "1,100")
    assert "with frames coalesced 4.0 % → 90 %; flows a queue pair 32 → 16" in said
    assert "1 of 16 trials are doubtful: a neighbour (1 ×)" in said  # noqa: RUF001 - a multiplication sign
    assert all(len(line) <= 80 for line in said.split("queue-pairs: 2")[0].splitlines())
    assert "…" not in said
