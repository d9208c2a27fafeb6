"""Dashboards, rules and consoles: as they are committed, and on a Prometheus that watches a device at work."""

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mpnet.control.families import FAMILIES
from mpnet.dashboards.generate import BOARDS, generate, main
from mpnet.guest import debian
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from tests.real.asked import real
from tests.real.chromium import browse
from tests.real.netns import network_namespace, tap
from tests.real.prometheus import DASHBOARDS, Prometheus
from tests.real.running import PATIENCE, Running, wait_until

DOCUMENTS = {board.name: json.loads((DASHBOARDS / f"grafana/{board.name}.json").read_text()) for board in BOARDS}
RUNBOOKS = (Path(__file__).parent.parent / "docs/runbooks.md").read_text()
RULES = (DASHBOARDS / "rules/mpnet.yml").read_text()


def panels(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def expressions(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels(document) for target in panel["targets"]]


# In the repository.


def test_what_is_committed_is_what_the_code_makes(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in DOCUMENTS:
        made, committed = ((folder / f"{name}.json").read_text() for folder in (tmp_path, DASHBOARDS / "grafana"))
        assert made == committed, f"{name}.json is old: python -m mpnet.dashboards.generate"


def test_every_panel_says_what_to_read_from_it_in_a_unit() -> None:
    for document in DOCUMENTS.values():
        ids = [panel["id"] for panel in document["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in panels(document):
            assert panel["title"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["type"] in {"state-timeline", "heatmap"} or panel["fieldConfig"]["defaults"]["unit"]


def test_every_metric_of_a_device_is_on_a_dashboard() -> None:
    shown = " ".join(expression for document in DOCUMENTS.values() for _, expression in expressions(document))
    assert [family.name for family in FAMILIES if family.name not in shown] == []


@real("prometheus")
def test_the_configuration_is_sound() -> None:
    subprocess.run(
        [debian.program("promtool"), "check", "config", str(DASHBOARDS / "prometheus.yml")],
        check=True,
        capture_output=True,
    )


@real("prometheus")
def test_rules_give_and_alerts_say_what_they_shall() -> None:
    done = subprocess.run(
        [debian.program("promtool"), "test", "rules", "mpnet.test.yml"],
        cwd=DASHBOARDS / "rules",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (DASHBOARDS / "rules/mpnet.test.yml").read_text()))
    assert tested == set(re.findall(r"- alert: (\w+)", RULES))


def test_alerts_can_point_to_runbooks_elsewhere(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--runbooks", "https://wiki.example/mpnet/runbooks"])
    alerts = re.findall(r"alert: (\S+)", RULES)
    urls = [f"https://wiki.example/mpnet/runbooks#{name.lower()}" for name in alerts]
    assert re.findall(r"runbook_url: (\S+)", result.stdout) == urls
    (tmp_path / "mpnet.yml").write_text(result.stdout)
    subprocess.run(["promtool", "check", "rules", tmp_path / "mpnet.yml"], check=True, capture_output=True)


def test_every_alert_has_a_runbook() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert alerts == re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    assert re.findall(r"runbook_url: (\S+)", RULES) == [f"docs/runbooks.md#{name.lower()}" for name in alerts]


# On real parts.

PAIRS = 2
SENT = (30_000, 10_000)
"""Frames that the driver sends on each queue pair."""
RECEIVED = 500


@dataclass(frozen=True)
class Watched:
    """A device that has worked, and the Prometheus that has seen all of it.

    Attributes:
        device: which still runs.
        prometheus: scrapes it.
        at: when all of the work had been scraped, and was no minute ago.
        overview: the console with what has been moved lately, as it was then.
    """

    device: Running
    prometheus: Prometheus
    at: float
    overview: str


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with (
        network_namespace(),
        tap("tap0"),
        tempfile.TemporaryDirectory(prefix="mpnet-") as name,
        Running(Path(name), "tap0", PAIRS, words="gro=on,poll-us=20") as device,
        Driver.connect(device.socket, Setup(queue_pairs=PAIRS)) as driver,
        Prometheus(Path(name), device.port) as prometheus,
    ):
        # What a counter was before is known: the rest is an increase.
        wait_until(
            lambda: prometheus.value('count_over_time(mpnet_device_up{device="net0"}[1m])') >= 3, "scrapes"
        )
        work(device, driver)
        wait_until(
            lambda: (
                prometheus.value("sum(mpnet_queue_tx_packets_total)") == sum(SENT)
                and prometheus.value("sum(mpnet_queue_rx_packets_total)") >= RECEIVED
                and prometheus.value("sum(device:mpnet_tx_packets:rate1m)") > 0
                and prometheus.value("sum(worker:mpnet_batch_packets:mean1m)") > 0
            ),
            "the last scrape and the rules on it",
        )
        yield Watched(device, prometheus, time.time(), prometheus.page("consoles/index.html"))


def work(device: Running, driver: Driver) -> None:
    """Frames from the guest on each pair, and frames to it."""
    for pair, count in zip(driver.pairs, SENT, strict=True):
        report = Traffic(pair, Stream(flows=4), Plan(receive=False, flow_run=8)).run(PATIENCE, count, 0)
        assert report.sent["packets"] == count
    frame = bytes(6) + b"\x02\0\0\0\0\x01" + (0x88B5).to_bytes(2, "big") + bytes(100)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind(("tap0", 0x88B5))
        for pair in range(PAIRS):
            driver.post(pair, 2048, 100)
        for _ in range(RECEIVED):
            host.send(frame)
            for pair in range(PAIRS):
                taken = driver.receive(pair, 100, 0)
                driver.post(pair, 2048, len(taken))
    device.show()


def substituted(expression: str) -> str:
    """As Grafana asks: several choices become a regular expression, and ``$__rate_interval`` a minute here."""
    chosen = {
        "$__rate_interval": "1m",
        "$__range": "5m",
        "$instance": ".*",
        "$device": "(net0)",
        "$queue": "(0|1)",
        "$worker": ".*",
    }
    for variable, choice in chosen.items():
        expression = expression.replace(variable, choice)
    assert "$" not in expression
    return expression


def test_the_exporter_is_found_by_both_discoveries_and_scraped_once(watched: Watched) -> None:
    (target,) = watched.prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["labels"]["instance"]) == ("up", f"127.0.0.1:{watched.device.port}")
    found = 'prometheus_sd_discovered_targets{config="mpnet",name="scrape"} 2'
    wait_until(lambda: found in watched.prometheus.page("metrics").splitlines(), "both discoveries have found it")
    (target,) = watched.prometheus.api("targets")["activeTargets"]
    assert target["labels"]["instance"] == f"127.0.0.1:{watched.device.port}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_panel_shows_something(watched: Watched, name: str) -> None:
    empty = [
        (title, expression)
        for title, expression in expressions(DOCUMENTS[name])
        if not watched.prometheus.query(substituted(expression))
    ]
    assert empty == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_variable_has_choices(watched: Watched, name: str) -> None:
    for variable in DOCUMENTS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        matched = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
        assert matched
        choices = watched.prometheus.api(f"label/{matched[2]}/values", **{"match[]": substituted(matched[1])})
        expected = {"device": ["net0"], "queue": ["0", "1"], "worker": ["0", "1"]}
        assert choices == expected.get(matched[2], [f"127.0.0.1:{watched.device.port}"])


def test_every_rule_is_evaluated_and_no_alert_is_raised(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not watched.prometheus.query(name)] == []


def test_the_condition_of_every_alert_is_about_series_that_there_are(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.api("rules")["groups"] for rule in group["rules"]]
    alerts = {rule["name"]: rule["query"] for rule in rules if rule["type"] == "alerting"}
    assert alerts
    # With ``bool`` a comparison says 0 instead of nothing: what is still nothing names no series, or joins none.
    outside_braces = re.compile(r"(\{[^}]*\})|(==|>|<)")
    unmet = {
        name: outside_braces.sub(lambda found: found[1] or f"{found[2]} bool", query)
        for name, query in alerts.items()
    }
    assert [name for name, query in unmet.items() if not watched.prometheus.query(query)] == []


def test_counters_are_exact(watched: Watched) -> None:
    prometheus = watched.prometheus
    by_queue = {labels["queue"]: value for labels, value in prometheus.query("mpnet_queue_tx_packets_total")}
    assert by_queue == {"0": SENT[0], "1": SENT[1]}

    def agree() -> bool:
        rings = [ring for ring in watched.device.show()["rings"] if ring["queue"] is not None]
        return all(
            prometheus.value(f"sum(mpnet_queue_{direction}_{counter}_total)")
            == sum(ring[counter] for ring in rings if ring["direction"] == direction)
            for direction in ("rx", "tx")
            for counter in ("packets", "bytes")
        )

    # The host's kernel still says a word of its own now and then, which the next scrape has.
    wait_until(agree, "scraped counters are the device's")
    # Each burst of each direction is in the histogram, and nothing else is; asked at once, for the same scrape.
    moved = "(sum(mpnet_queue_rx_packets_total) + sum(mpnet_queue_tx_packets_total))"
    same = f"sum(mpnet_worker_batch_packets_sum) == bool {moved}"
    wait_until(lambda: prometheus.value(same) == 1, "the histogram holds every burst")
    rounds, bursts = (
        prometheus.value(f"sum({name}_count)")
        for name in ("mpnet_worker_round_duration_seconds", "mpnet_worker_batch_packets")
    )
    assert 0 < rounds <= bursts
    assert prometheus.value('sum(mpnet_device_negotiation{stage="running"})') == 1
    assert prometheus.value("sum(mpnet_worker_up)") == prometheus.value("sum(mpnet_device_workers)") == PAIRS


def test_rates_are_what_the_driver_sent(watched: Watched) -> None:
    """A rate over a time in which all was sent: extrapolated to the window's ends by a scrape or so."""
    scrapes, sent, rate, writes = (
        watched.prometheus.value(expression, watched.at)
        for expression in (
            "sum(count_over_time(mpnet_device_up[1m]))",
            "sum(increase(mpnet_queue_tx_packets_total[1m]))",
            "sum(rate(mpnet_queue_tx_packets_total[1m]))",
            "sum(device:mpnet_tx_coalescing:ratio_rate1m)",
        )
    )
    assert sum(SENT) <= sent <= sum(SENT) * (scrapes + 2.5) / (scrapes - 1)
    assert rate == pytest.approx(sent / 60, rel=0.2)
    assert writes > 1.5, "runs of eight frames of a flow are coalesced"


class Cells(HTMLParser):
    """The text of a table's cells, by the row's ``data-…`` attribute and the cell's class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str], str] = {}
        self.sparks = 0
        self._row = self._cell = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        if tag == "tr":
            self._row = next((value or "" for name, value in attrs if name.startswith("data-")), "")
        elif tag == "td":
            self._cell = has.get("class") or ""
        elif tag == "path":
            self.sparks += 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._row and self._cell and data.strip():
            key = (self._row, self._cell)
            self.cells[key] = self.cells.get(key, "") + data.strip()


def test_the_consoles_show_the_device_in_a_browser(watched: Watched) -> None:
    queues = Cells(browse(f"http://{watched.prometheus.address}/consoles/queues.html?device=net0"))
    assert [queues.cells[str(pair), "tx-packets"] for pair in range(PAIRS)] == [str(count) for count in SENT]
    assert [queues.cells[pair, "name worker"] for pair in "01"] == ["0", "1"]
    assert queues.sparks == 2 * PAIRS, "the page's own script has drawn a line for each queue and direction"
    overview = Cells(watched.overview)
    assert overview.cells["net0", "name"].startswith("net0")
    assert "running" in overview.cells["net0", "name"]
    assert float(overview.cells["net0", "tx"].rstrip("kM")) > 0
    workers = watched.prometheus.page("consoles/workers.html")
    assert workers.count("data-worker=") == PAIRS
