"""Metrics of hand-filled segments, as a Prometheus that scrapes them sees them."""

import asyncio
import contextlib
import functools
import gzip
import http.client
import itertools
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

import mpnet
from mpnet.control import exporter as exporters
from mpnet.control import log, usage
from mpnet.control.exporter import Exporter
from mpnet.control.exposition import Exposition, Reading
from mpnet.control.families import FAMILIES
from mpnet.control.http_request import takes_gzip
from mpnet.control.metrics import Metrics
from mpnet.control.usage import Usage, Usages
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.rpc.management import METHODS
from mpnet.segment.layout import (
    BURST_BUCKETS,
    MESSAGE_BUCKETS_NS,
    ROUND_BUCKETS_NS,
    DropReason,
    Engine,
    Negotiation,
    RestartReason,
    RingState,
)
from mpnet.segment.segment import Segment
from mpnet.virtio.features import Feature, mask
from tests.real.asked import real
from tests.squatting import STRANGER
from tests.test_usage import FakeProcess

PAIRS = 2


@contextmanager
def exporting(metrics, host="127.0.0.1", port=0):
    """An exporter, and an event loop in a thread of its own; gives its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    exporter = Exporter(metrics, ["host-a"])
    try:
        try:
            yield run(exporter.serve(host, port))
        finally:
            run(exporter.close())
            run(loop.shutdown_default_executor())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def segment():
    made = Segment.create(f"test-{uuid.uuid4().hex[:12]}", PAIRS)
    yield made
    made.unlink()
    vars(made).clear()  # unmaps it: pytest keeps the last test's fixtures


@pytest.fixture
def metrics(segment):
    return Metrics(lambda: [segment])


@pytest.fixture
def port(metrics):
    with exporting(metrics) as number:
        yield number


class Scrape:
    """Samples by name and labels."""

    def __init__(self, families):
        self.types = {family.name: family.type for family in families}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def value(self, name, **labels):
        return self.samples[(name, frozenset(labels.items()))]

    def of(self, name):
        return {labels: value for (sample, labels), value in self.samples.items() if sample == name}


def scrape(metrics):
    return Scrape(list(parser.text_string_to_metric_families(metrics.text())))


def test_a_new_device_exports_everything_as_zero(metrics, segment):
    page = scrape(metrics)
    device = segment.name
    for pair, direction in itertools.product(map(str, range(PAIRS)), ("rx", "tx")):
        for counter in ("packets", "bytes", "gso_packets"):
            assert page.value(f"mpnet_queue_{direction}_{counter}_total", device=device, queue=pair) == 0
        for reason in DropReason:
            labels = {"device": device, "queue": pair, "reason": reason.name.lower()}
            assert page.value(f"mpnet_queue_{direction}_drops_total", **labels) == 0
        for counter in ("kicks", "calls", "calls_suppressed", "faults"):
            labels = {"device": device, "queue": pair, "direction": direction}
            assert page.value(f"mpnet_queue_{counter}_total", **labels) == 0
    for worker in map(str, range(PAIRS)):
        labels = {"device": device, "worker": worker}
        for state in ("user", "system"):
            assert page.value("mpnet_worker_cpu_seconds_total", **labels, state=state) == 0
        for reason in RestartReason:
            assert page.value("mpnet_worker_restarts_total", **labels, reason=reason.name.lower()) == 0
        for kind in ("voluntary", "involuntary"):
            assert page.value("mpnet_worker_context_switches_total", **labels, kind=kind) == 0
        assert page.value("mpnet_worker_up", **labels) == 0
        assert page.value("mpnet_worker_batch_packets_count", **labels) == 0
        assert page.value("mpnet_worker_round_duration_seconds_count", **labels) == 0
        assert page.value("mpnet_worker_start_time_seconds", **labels) == 0
        assert page.value("mpnet_worker_heartbeat_timestamp_seconds", **labels) == 0
    for method in METHODS:
        assert page.value("mpnet_control_request_duration_seconds_count", method=method) == 0
    assert page.value("mpnet_device_up", device=device) == 0
    (build,) = page.of("mpnet_build_info")
    assert dict(build).keys() == {"version", "python", "numba"}
    assert dict(build)["version"] == mpnet.__version__


def test_each_counter_is_read_from_its_own_field(metrics, segment):
    numbers = itertools.count(1000)
    written = {}
    for index, name in itertools.product(
        range(2 * PAIRS), ("packets", "bytes", "gso_packets", "kicks", "calls", "calls_suppressed")
    ):
        written[index, name] = segment.rings[index][name] = next(numbers)
    for index, reason in itertools.product(range(2 * PAIRS), DropReason):
        written[index, reason] = segment.rings[index].drops[reason] = next(numbers)
    for pair in range(PAIRS):
        rx = segment.rings[2 * pair]
        rx.entries, rx.available_entries, rx.spilled = 256 + pair, 100 + pair, 50 + pair
    page = scrape(metrics)
    for index in range(2 * PAIRS):
        direction, labels = ("rx", "tx")[index % 2], {"device": segment.name, "queue": str(index // 2)}
        for name in ("packets", "bytes", "gso_packets"):
            assert page.value(f"mpnet_queue_{direction}_{name}_total", **labels) == written[index, name]
        for name in ("kicks", "calls", "calls_suppressed"):
            value = page.value(f"mpnet_queue_{name}_total", **labels, direction=direction)
            assert value == written[index, name]
        for reason in DropReason:
            value = page.value(f"mpnet_queue_{direction}_drops_total", **labels, reason=reason.name.lower())
            assert value == written[index, reason]
    for pair in range(PAIRS):
        labels = {"device": segment.name, "queue": str(pair)}
        assert page.value("mpnet_queue_rx_ring_entries", **labels) == 256 + pair
        assert page.value("mpnet_queue_rx_ring_available_entries", **labels) == 100 + pair
        assert page.value("mpnet_queue_rx_spilled_bytes", **labels) == 50 + pair


@pytest.mark.parametrize(("offset", "name"), [(0, "rx_segmented"), (1, "tx_coalesced")])
def test_what_superframes_save_is_read_from_the_rings(metrics, segment, offset, name):
    fields = ("", "_frames", "_saved_bytes")
    for number, (pair, field) in enumerate(itertools.product(range(PAIRS), fields)):
        segment.rings[2 * pair + offset][name[3:] + field] = 1000 + number
    page = scrape(metrics)
    units = ("packets", "frames", "saved_bytes")
    for number, (pair, unit) in enumerate(itertools.product(range(PAIRS), units)):
        labels = {"device": segment.name, "queue": str(pair)}
        assert page.value(f"mpnet_queue_{name}_{unit}_total", **labels) == 1000 + number


def test_what_is_counted_of_a_worker_is_read_from_its_own_field(metrics, segment, monkeypatch):
    """Each number is another, in both slots: none is taken for its neighbour."""
    processes = {}
    monkeypatch.setattr(usage, "_find", processes.get)
    for slot, record in enumerate(segment.workers):
        record.pid, record.start_ns, record.wakeups = 11 + slot, 5_000_000_000 + slot * 10**9, 100 + slot
        record.restarts[:] = range(10 * slot + 1, 10 * slot + 1 + len(RestartReason))
        used = Usage(1.5 + slot, 20.5 + slot, 300 + slot, 4000 + slot, 50_000 + slot, 600_000 + slot, alive=True)
        processes[record.pid] = FakeProcess(used)
    page = scrape(metrics)
    for slot in range(PAIRS):
        of = functools.partial(page.value, device=segment.name, worker=str(slot))
        assert of("mpnet_worker_start_time_seconds") == 5 + slot
        assert of("mpnet_worker_wakeups_total") == 100 + slot
        for number, reason in enumerate(RestartReason, 10 * slot + 1):
            assert of("mpnet_worker_restarts_total", reason=reason.name.lower()) == number
        for state, value in (("user", 1.5), ("system", 20.5)):
            assert of("mpnet_worker_cpu_seconds_total", state=state) == value + slot
        for kind, value in (("voluntary", 300), ("involuntary", 4000)):
            assert of("mpnet_worker_context_switches_total", kind=kind) == value + slot
        for kind, value in (("anonymous", 50_000), ("shared", 600_000)):
            assert of("mpnet_worker_memory_bytes", kind=kind) == value + slot


def test_what_is_told_of_a_device_is_read_from_its_own_field(metrics, segment):
    header = segment.header
    header.enabled_pairs, header.workers, header.connections = 3, 5, 7
    for number, record in enumerate(segment.rings):
        record.faults = 40 + number
    page = scrape(metrics)
    for name, value in (
        ("queue_pairs", PAIRS),
        ("enabled_queue_pairs", 3),
        ("workers", 5),
        ("connections_total", 7),
    ):
        assert page.value(f"mpnet_device_{name}", device=segment.name) == value
    for number in range(2 * PAIRS):
        labels = {"device": segment.name, "queue": str(number // 2), "direction": ("rx", "tx")[number % 2]}
        assert page.value("mpnet_queue_faults_total", **labels) == 40 + number


def test_bursts_become_a_cumulative_histogram(metrics, segment):
    segment.workers[1].bursts[:] = range(1, len(BURST_BUCKETS) + 2)
    segment.workers[1].burst_packets = 777
    page, labels = scrape(metrics), {"device": segment.name, "worker": "1"}
    bounds = [*(str(float(bound)) for bound in BURST_BUCKETS), "+Inf"]
    values = [page.value("mpnet_worker_batch_packets_bucket", **labels, le=bound) for bound in bounds]
    assert values == list(itertools.accumulate(range(1, len(BURST_BUCKETS) + 2)))
    assert page.value("mpnet_worker_batch_packets_count", **labels) == values[-1]
    assert page.value("mpnet_worker_batch_packets_sum", **labels) == 777


def test_the_durations_of_rounds_are_a_histogram_in_seconds(metrics, segment):
    segment.workers[0].rounds[:] = range(1, len(ROUND_BUCKETS_NS) + 2)
    segment.workers[0].round_ns = 2_500_000_000
    page, labels = scrape(metrics), {"device": segment.name, "worker": "0"}
    name = "mpnet_worker_round_duration_seconds"
    bounds = [*(str(bound / 1e9) for bound in ROUND_BUCKETS_NS), "+Inf"]
    values = [page.value(f"{name}_bucket", **labels, le=bound) for bound in bounds]
    assert values == list(itertools.accumulate(range(1, len(ROUND_BUCKETS_NS) + 2)))
    assert page.value(f"{name}_sum", **labels) == 2.5


def test_polling_and_the_engine_are_told(metrics, segment):
    worker = segment.workers[1]
    worker.poll_hits, worker.poll_misses, worker.poll_ns, worker.engine = 3, 4, 1_500_000_000, Engine.URING
    page, labels = scrape(metrics), {"device": segment.name, "worker": "1"}
    assert page.value("mpnet_worker_polls_total", **labels, outcome="hit") == 3
    assert page.value("mpnet_worker_polls_total", **labels, outcome="miss") == 4
    assert page.value("mpnet_worker_polled_seconds_total", **labels) == 1.5
    engines = {
        engine.name: page.value("mpnet_worker_engine", **labels, engine=engine.name.lower()) for engine in Engine
    }
    assert [name for name, used in engines.items() if used] == ["URING"]


def test_the_stage_of_the_negotiation_is_told(metrics, segment):
    segment.header.negotiation, segment.header.connections = Negotiation.MEMORY, 3
    page = scrape(metrics)
    stages = {dict(labels)["stage"]: value for labels, value in page.of("mpnet_device_negotiation").items()}
    assert stages == {"listening": 0, "connected": 0, "features": 0, "memory": 1, "running": 0}
    assert page.value("mpnet_device_connections_total", device=segment.name) == 3


def test_the_messages_of_front_ends_are_a_histogram_in_seconds(metrics, segment):
    segment.header.messages[:] = range(1, len(MESSAGE_BUCKETS_NS) + 2)
    segment.header.message_ns = 1_500_000_000
    page, labels = scrape(metrics), {"device": segment.name}
    name = "mpnet_device_message_duration_seconds"
    bounds = [*(str(bound / 1e9) for bound in MESSAGE_BUCKETS_NS), "+Inf"]
    values = [page.value(f"{name}_bucket", **labels, le=bound) for bound in bounds]
    assert values == list(itertools.accumulate(range(1, len(MESSAGE_BUCKETS_NS) + 2)))
    assert page.value(f"{name}_sum", **labels) == 1.5


def test_an_offer_that_changes_during_a_scrape_changes_none_of_it(segment):
    segment.header.offered_features, segment.header.features = mask(Feature.MQ, Feature.MAC), mask(Feature.MAC)
    reading = Reading(segment, segment.header.copy(), Usages().sample(segment))
    segment.header.offered_features, segment.header.features = mask(Feature.MTU), 0
    text = Exposition(FAMILIES).text([reading], openmetrics=False)
    lines = {line for line in text.splitlines() if line.startswith("mpnet_device_feature_enabled")}
    of = f'mpnet_device_feature_enabled{{device="{segment.name}",feature='
    assert lines == {f'{of}"MQ"}} 0', f'{of}"MAC"}} 1'}


def test_who_serves_a_queue_pair_is_told(metrics, segment):
    segment.rings[2].worker = 2
    page = scrape(metrics)
    told = [page.value("mpnet_queue_worker", device=segment.name, queue=str(pair)) for pair in range(PAIRS)]
    assert told == [-1, 1]


def test_a_ring_that_is_served_and_one_that_is_broken_differ(metrics, segment):
    segment.rings[2].state, segment.rings[3].state = RingState.RUNNING, RingState.BROKEN
    page, labels = scrape(metrics), {"device": segment.name, "queue": "1"}
    for direction, running in (("rx", 1), ("tx", 0)):
        assert page.value("mpnet_queue_running", **labels, direction=direction) == running
        assert page.value("mpnet_queue_broken", **labels, direction=direction) == 1 - running


def test_the_state_of_device_and_workers_is_told(metrics, segment):
    segment.rings[1].state = RingState.RUNNING
    segment.header.offered_features = mask(
        Feature.MRG_RXBUF, Feature.MQ, Feature.VERSION_1, Feature.VHOST_USER_PROTOCOL_FEATURES
    )
    segment.header.features = mask(Feature.MQ)
    segment.workers[0].start_ns = 1_700_000_000 * 10**9
    segment.workers[0].heartbeat_ns = time.monotonic_ns()
    segment.workers[0].restarts[RestartReason.KILLED] = 3
    before = time.time()
    page, labels = scrape(metrics), {"device": segment.name, "worker": "0"}
    assert page.value("mpnet_device_up", device=segment.name) == 1
    enabled = {dict(each)["feature"]: value for each, value in page.of("mpnet_device_feature_enabled").items()}
    assert enabled == {"MRG_RXBUF": 0, "MQ": 1, "VERSION_1": 0}
    assert page.value("mpnet_worker_start_time_seconds", **labels) == 1_700_000_000
    # The two clocks may be adjusted against each other while the test runs.
    assert page.value("mpnet_worker_heartbeat_timestamp_seconds", **labels) == pytest.approx(before, abs=5)
    assert page.value("mpnet_worker_restarts_total", **labels, reason="killed") == 3


def test_what_a_worker_uses_is_told(metrics, segment):
    segment.workers[0].pid, segment.workers[0].start_ns = os.getpid(), 1
    page, labels = scrape(metrics), {"device": segment.name, "worker": "0"}
    assert page.value("mpnet_worker_up", **labels) == 1
    assert page.value("mpnet_worker_memory_bytes", **labels, kind="anonymous") > 1 << 20


def test_a_ring_that_only_the_control_queue_uses_is_no_device_in_use(metrics, segment):
    segment.rings[2 * PAIRS].state = RingState.RUNNING
    assert scrape(metrics).value("mpnet_device_up", device=segment.name) == 0


def test_requests_are_counted_by_method(metrics):
    metrics.observe_request("device.show", 0.002)
    page = scrape(metrics)
    assert page.value("mpnet_control_request_duration_seconds_count", method="device.show") == 1
    assert page.value("mpnet_control_request_duration_seconds_sum", method="device.show") == 0.002
    assert page.value("mpnet_control_request_duration_seconds_bucket", method="device.show", le="0.001") == 0
    assert page.value("mpnet_control_request_duration_seconds_bucket", method="device.show", le="0.005") == 1


def test_log_lines_that_were_not_written_are_counted(metrics, monkeypatch):
    monkeypatch.setattr(log.sink, "lost", 3)
    monkeypatch.setattr(log.limit, "left_out", 5)
    page = scrape(metrics)
    assert page.value("mpnet_log_lines_lost_total", reason="unwritable") == 3
    assert page.value("mpnet_log_lines_lost_total", reason="limit") == 5


def test_several_devices_stand_side_by_side(segment):
    other = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1)
    try:
        served = [segment]
        metrics = Metrics(lambda: served)
        served.append(other)
        names = {dict(labels)["device"] for labels in scrape(metrics).of("mpnet_device_up")}
        assert names == {segment.name, other.name}
        served.remove(segment)
        assert len(scrape(metrics).of("mpnet_device_up")) == 1
    finally:
        other.unlink()


def test_no_device_is_no_error():
    assert "mpnet_device_up" in scrape(Metrics(list)).types


def test_both_formats_agree_on_names_types_and_values(metrics, segment):
    segment.rings[0].packets = 7
    text = metrics.text(openmetrics=True)
    families = list(openmetrics_parser.text_string_to_metric_families(text))
    types = {family.name: family.type for family in families}
    assert types["mpnet_queue_rx_packets"] == "counter"
    assert types["mpnet_worker_batch_packets"] == "histogram"
    assert types["mpnet_queue_rx_ring_entries"] == "gauge"
    classic = scrape(metrics)
    assert types.keys() == {name for name in classic.types if not name.endswith("_created")}
    ours = {key: value for key, value in Scrape(families).samples.items() if key[0].startswith("mpnet_queue")}
    assert ours == {key: value for key, value in classic.samples.items() if key[0].startswith("mpnet_queue")}


@real("prometheus")
def test_promtool_finds_nothing_to_say(metrics):
    promtool = [debian.program("promtool"), "check", "metrics"]
    done = subprocess.run(promtool, input=metrics.text(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# Over HTTP.


def _get(port, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - likewise
        body = response.read()
        if response.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        return response.headers["Content-Type"], body.decode()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_the_format_is_negotiated(port, segment, encoding):
    segment.rings[0].packets = 5
    headers = {"Accept-Encoding": encoding}
    kind, text = _get(port, "/metrics", Accept="text/plain", **headers)
    assert kind.startswith("text/plain")
    page = Scrape(list(parser.text_string_to_metric_families(text)))
    assert page.value("mpnet_queue_rx_packets_total", device=segment.name, queue="0") == 5
    kind, text = _get(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0", **headers)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    page = Scrape(list(openmetrics_parser.text_string_to_metric_families(text)))
    assert page.value("mpnet_queue_rx_packets_total", device=segment.name, queue="0") == 5


def test_every_exporter_of_the_host_is_discovered(port, segment):
    other = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1)
    left_behind = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1)
    forged = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 1)
    try:
        segment.header.metrics_port, other.header.metrics_port = port, 9465
        left_behind.header.metrics_port, left_behind.header.control_pid = 9466, _ended_process()
        forged.header.metrics_port = 9467
        os.fchown(forged.fd, STRANGER, STRANGER)
        kind, text = _get(port, "/sd", Host=f"host-a:{port}")
    finally:
        other.unlink()
        left_behind.unlink()
        forged.unlink()
    assert kind == "application/json"
    ((targets,),) = (group.values() for group in json.loads(text))
    assert {f"host-a:{port}", "host-a:9465"} <= set(targets)
    assert not {"host-a:9466", "host-a:9467"} & set(targets), "of a process that ended, of another user"


def _ended_process():
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def test_other_paths_say_where_the_metrics_are(port):
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        _get(port, "/")
    assert b"/metrics" in refused.value.read()


def test_a_port_in_use_is_an_error(port):
    with (
        pytest.raises(MpnetError, match=r"cannot serve metrics on .*: Address already in use"),
        exporting(Metrics(list), port=port),
    ):
        raise AssertionError("it serves")


def test_a_host_that_is_not_here_is_an_error(metrics):
    with (
        pytest.raises(MpnetError, match="Cannot assign requested address"),
        exporting(metrics, "192.0.2.1", 9464),
    ):
        raise AssertionError("it serves")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("[fe80::1%25lo]", 200),
        ("localhost", 200),
        ("HOST-A:9464", 200),
        (socket.gethostname(), 200),
        ("", 200),
        ("evil.example:9464", 421),
        ("host-a.evil.example", 421),
        ("127.0.0.1.evil.example:9464", 421),
    ],
)
def test_names_that_are_not_this_hosts_are_not_answered(port, host, status):
    for path in ("/metrics", "/sd"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
            client.putrequest("GET", path, skip_host=True)
            client.putheader("Host", host)
            client.endheaders()
            answer = client.getresponse()
            answer.read()
            assert answer.status == status


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("identity, *;q=0", False),
        ("x-gzip-not", False),
        ("gzip;q=much", False),
        ("", False),
    ],
)
def test_compression_is_for_who_takes_it(accepted, compressed):
    assert takes_gzip(accepted) == compressed


def test_an_address_may_have_a_scope(metrics, segment):
    scope = socket.if_indextoname(1)
    subprocess.run(["ip", "address", "add", "fe80::1/64", "dev", scope, "nodad"], check=True)
    try:
        with exporting(metrics, f"fe80::1%{scope}") as port, socket.socket(socket.AF_INET6) as sock:
            sock.settimeout(60)
            sock.connect(("fe80::1", port, 0, 1))
            sock.sendall(f"GET /metrics HTTP/1.0\r\nHost: [fe80::1]:{port}\r\n\r\n".encode())
            assert sock.recv(15) == b"HTTP/1.0 200 OK"
    finally:
        subprocess.run(["ip", "address", "del", "fe80::1/64", "dev", scope], check=True)


def _half_a_request(port):
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.sendall(b"GET /metrics HTTP/1.1\r\n")
    return sock


def test_any_number_of_half_requests_keep_no_scraper_out(port):
    slow = [_half_a_request(port) for _ in range(100)]
    for sock in slow[: 100 - exporters.MOST_CONNECTIONS]:
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert "mpnet_build_info" in _get(port, "/metrics")[1]
    for sock in slow:
        sock.close()


def test_a_request_that_is_never_finished_ends(port, monkeypatch):
    monkeypatch.setattr(exporters, "PATIENCE_SECONDS", 0.05)
    with _half_a_request(port) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    assert "mpnet_build_info" in _get(port, "/metrics")[1]
