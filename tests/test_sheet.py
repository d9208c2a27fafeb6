"""Tables on screens of any width: every figure is there, no line is longer than the screen."""

import pytest
from rich.console import Console

from mpnet.cli import bench, demo, sheet
from mpnet.cli.comparison import print_comparison
from mpnet.cli.sheet import Column, Sheet
from mpnet.demo.summary import Experiment, ExperimentRow, Part, RingTotals, Summary
from mpnet.experiment.compare import Change, Comparison

BIG = 123_456_789_012
"""A counter of twelve digits."""
WIDTHS = (80, 100, 132)


def shown(capsys, width):
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


@pytest.fixture(params=WIDTHS)
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


def test_what_does_not_fit_stands_below_with_the_keys(capsys, width):
    titles = [f"counter {number}" for number in range(9)]
    table = Sheet(
        Column("queue", key=True), *(Column(title, right=True) for title in titles), Column("why", wrap=True)
    )
    for row in range(3):
        counters = [f"{BIG + 10 * row + column:,}" for column in range(9)]
        table.add(f"pair {row}", *counters, f"first_reason={BIG + 100:,} second_reason={BIG + 200:,}")
    sheet.console().print(table)
    text = shown(capsys, width)
    for figure in (*range(9), *range(10, 19), *range(20, 29), 100, 200):
        assert f"{BIG + figure:,}" in text
    blocks = text.count("queue")
    assert blocks > 1
    assert [text.count(f"pair {row}") for row in range(3)] == [blocks] * 3
    assert all(text.count(title) == 1 for title in titles)


def test_a_word_wider_than_the_screen_is_folded(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = "/run/" + "x" * 90 + ".sock"
    table = Sheet(Column("device", key=True), Column("socket"), Column("packets", right=True))
    table.add("net0", path, f"{BIG:,}")
    sheet.console().print(table)
    text = shown(capsys, 40)
    folded = [line.removeprefix(" net0").strip() for line in text.splitlines() if "x" in line or ".sock" in line]
    assert "".join(folded) == path
    assert f"{BIG:,}" in text


def test_a_program_reads_a_row_a_line_unless_columns_says_how_wide(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Sheet(Column("key", key=True), *(Column(f"column {number}") for number in range(20)))
    table.add("row", *(f"{BIG + number:,}" for number in range(20)))
    sheet.console().print(table)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" row")]
    assert all(f"{BIG + number:,}" in line for number in range(20))
    monkeypatch.setenv("COLUMNS", "60")
    sheet.console().print(table)
    shown(capsys, 60)


def test_a_comparison_keeps_its_figures(capsys, width):
    changes = [
        Change(
            configuration=f"ring={ring} queue-pairs=4 workers=2 gro=off steering=rss-hash-of-flows",
            figure=figure, unit="packets/s", before=BIG + 1.0, after=BIG + 2.0, trials=(10, 10),
            ratio=1.234, low=1.1, high=1.4, verdict=verdict,
        )
        for ring in ("packed", "split")
        for figure, verdict in (("pps", "better"), ("cpu_ns_per_packet", "no difference shown"))
    ]  # fmt: skip
    print_comparison(Comparison(names=("a", "b"), factors={}, environment={}, changes=changes, only=([], [])))
    words = " ".join(shown(capsys, width).split())
    assert words.count("123,456,789,013") == words.count("123,456,789,014") == 4
    for figure in ("before", "after", "change", "+23 %", "+10 % to +40 %", "10, 10", "better", "shown"):
        assert figure in words, figure


def test_a_bench_keeps_its_figures(capsys, width):
    results = [
        {"case": "guest-stream-tx-udp-segments", "system": system, "median": BIG + 1.0, "unit": "packets/s",
         "spread": (BIG + 2.0, BIG + 3.0), "ratio": ratio}
        for system, ratio in (("mpnet", None), ("dpdk", 1.239))
    ]  # fmt: skip
    environment = {
        "noise": [], "skipped": {}, "flags": {"rounds": 5, "duration": 1}, "load_average": [1, 2], "steal": 0,
        "wait": 0, "driver_cpu": 0, "device_cpu": 1, "distance_ns": None, "cpu": "a", "cpus": 2, "kernel": "6 x",
    }  # fmt: skip
    bench._print({"results": results, "environment": environment})
    text = capsys.readouterr().out
    table = text[: text.rindex("a, 2 processors")]
    assert max(map(len, table.splitlines())) <= width
    assert [table.count(f"{BIG + number:,}") for number in (1, 2, 3)] == [2, 2, 2]
    assert "1.24" in table


def test_a_demo_keeps_its_figures(capsys, width):
    ring = RingTotals(
        queue=0, direction="rx", frames=BIG, bytes=BIG * 1500, kicks=BIG + 1, calls=BIG + 2,
        drops={"tap_down": BIG + 3, "short_chain": BIG + 4},
    )  # fmt: skip
    row = ExperimentRow(
        configuration="ring=packed gro=off",
        packets_per_second=BIG + 5,
        low=BIG + 6,
        high=BIG + 7,
        cpu_ns_per_packet=8,
    )
    summary = Summary(
        ok=True, seconds=1, start_to_first_packet_seconds=None, skipped="", experiment=Experiment(rows=[row]),
        parts=[Part(guest="Linux", seconds=1, rings=[ring], checks=[])],
    )  # fmt: skip
    demo._print(Console(highlight=False), summary)
    text = shown(capsys, width)
    for number in range(8):
        assert f"{BIG + number:,}" in text
