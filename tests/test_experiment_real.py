"""Experiments on real devices: the sweeps that ship, in short; hosts in their own namespaces; an interruption."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from pyroute2 import IPRoute

from mpnet.bench.bed import Bed
from mpnet.experiment import templates
from mpnet.experiment.factors import Factors
from mpnet.experiment.load import Load
from mpnet.experiment.local import run_here
from mpnet.experiment.plan import Trial, plan
from mpnet.experiment.report import page
from mpnet.experiment.results import read_records
from mpnet.experiment.stand import stand
from mpnet.experiment.sweep import parse
from tests.real.asked import LINUX_GUEST, NETWORK, real
from tests.real.chromium import browse
from tests.real.netns import network_namespace
from tests.real.running import MPNET, wait_until
from tests.test_experiment_report import changed, coalescing, made_up

DASK = [sys.executable, "-m", "dask"]
SWEEP = """\
[sweep]
replicates = 1
seconds = 0.1
warm-up = 0
[fixed]
flows = 8
[factors]
queue-pairs = [1, 2]
"""


def shortest(name: str) -> Trial:
    """The last combination of a sweep, which has every option set, as short as a trial may be."""
    trials = plan(parse(templates.text(name), Path(name)))
    last = max(trials, key=lambda trial: int(trial.id.partition("-")[2]))
    return msgspec.structs.replace(last, seconds=0.3, warm_up=0.0)


def test_no_table_of_a_report_is_cut_on_a_screen_of_1200_pixels(tmp_path: Path) -> None:
    text = SWEEP + 'ring-size = [256, 32768]\nring = ["split", "packed"]\n'
    text = text.replace("[fixed]", '[fixed]\nfeatures = "+host_uso -ring_event_idx"')
    results = changed(made_up(tmp_path / "r", text), coalescing)
    report = page.write(results, tmp_path / "report")
    cut = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.clientWidth)"
    look = f"document.title = {cut}.length"
    report.write_text(report.read_text().replace("</body>", f"<script>{look}</script></body>"))
    assert "<title>0</title>" in browse(report.as_uri(), "--window-size=1200,900")


@real("dpdk", NETWORK, *LINUX_GUEST)
def test_sweeps_that_ship_run() -> None:
    """With every driver: one of them has testpmd's, one a Linux guest's."""
    trials = [shortest(name) for name in templates.names()]
    assert {trial.factors.driver for trial in trials} == {"embedded", "testpmd", "qemu"}
    for trial, record in zip(trials, run_here(trials), strict=True):
        assert record.error == "", trial
        assert record.factors["queue-pairs"] == len(record.queues)
        packets = sum(queue["rx_packets"] + queue["tx_packets"] for queue in record.queues)
        assert packets > 0, trial
        assert record.machine is not None
        assert record.conditions is not None
        assert record.series is not None
        assert record.effective["queue_pairs"] == trial.factors.queue_pairs
        rates = [record.figures[name] for name in ("pps", "goodput_gbps") if name in record.figures]
        if rates:
            assert min(rates) > 0
        else:
            assert record.figures["rtt_p50_us"] <= record.figures["rtt_p99_us"]


PEERS = """\
[sweep]
replicates = 1
seconds = 1
warm-up = 0
[fixed]
queue-pairs = 2
direction = "both"
[[trial]]
driver = "testpmd"
[[trial]]
system = "dpdk"
[[trial]]
system = "qemu"
"""


@real("qemu", "dpdk", NETWORK)
def test_frames_go_both_ways_through_every_pair() -> None:
    trials = plan(parse(PEERS, Path("peers.toml")))
    records = {(record.factors["driver"], record.factors["system"]): record for record in run_here(trials)}
    for record in records.values():
        assert record.error == "", record
        assert record.figures["tx_pps"] + record.figures["rx_pps"] == pytest.approx(record.figures["pps"])
        assert record.figures["pps"] > 0
    ours = records["testpmd", "mpnet"]
    assert all(queue["rx_packets"] + queue["tx_packets"] > 0 for queue in ours.queues)
    for way in ("rx", "tx"):
        counted = sum(queue[f"{way}_packets"] for queue in ours.queues)
        # The device's counters are read before and after the driver's; what lay in the rings may be in one alone.
        assert ours.figures[f"{way}_pps"] * ours.seconds <= counted + 2 * 2 * 256


@real("qemu", "dpdk")
@pytest.mark.parametrize("system", ["dpdk", "qemu"])
def test_a_peer_uses_all_its_pairs(system: str) -> None:
    factors = Factors(system=system, queue_pairs=2, direction="both")
    with network_namespace(), tempfile.TemporaryDirectory(dir="/tmp") as folder:
        cpus = os.sched_getaffinity(0)
        bed = Bed(Path(folder), (min(cpus),), (max(cpus),))
        bed.lay()
        try:
            with stand(bed, factors) as started:
                work = started.work
                wait_until(lambda: work.run(0.05) and all(_moved(work)), f"frames on every ring: {_moved(work)}")
        finally:
            os.sched_setaffinity(0, cpus)


def _moved(load: Load) -> list[int]:
    """What each tx ring has sent and each rx ring received, of embedded traffic."""
    sent = [int(work.source.state[0].returned) for work, _ in load._works]
    return sent + [int(payload) for payload in load._pools.payload]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    return file


@real(NETWORK)
def test_an_interrupted_run_leaves_nothing_and_goes_on(sweep: Path, tmp_path: Path) -> None:
    command = [str(MPNET), "experiment", "run", str(sweep), "-o", str(tmp_path / "r")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = tmp_path / "r" / "trials.jsonl"
        wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") == 1, "the first trial")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, said
    assert "goes on where it was" in said
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sorted(record["trial"] for record in records) == ["1-0", "1-1"]
    assert not any(record["error"] for record in records)
    assert (tmp_path / "r" / "trials.parquet").exists()


class Program:
    """A process whose output is read while it runs."""

    def __init__(self, command: list[str], **options: object) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )  # type: ignore[call-overload]  # options are Popen's
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def running(command: list[str]) -> Iterator[Program]:
    program = Program(command)
    try:
        yield program
    finally:
        program.stop()


@contextmanager
def host(number: int, folder: Path) -> Iterator[Program]:
    """A dask worker in a network namespace of its own, with a link to ours."""
    # It waits for its end of the link, which it sets up itself.
    link = f"inside{number}"
    script = (
        f"read go && ip link set lo up && ip addr add 10.9.{number}.2/24 dev {link} && ip link set {link} up && "
        f"exec {' '.join(DASK)} worker tcp://10.9.{number}.1:8786 --nthreads 1 --resources mpnet=1 --no-nanny "
        f"--name host{number} --host 10.9.{number}.2 --no-dashboard --local-directory {folder}"
    )
    with running(["unshare", "--net", "sh", "-c", script]) as program, IPRoute() as ip:
        own = Path("/proc/self/ns/net").stat().st_ino
        there = Path(f"/proc/{program.process.pid}/ns/net")
        wait_until(lambda: there.stat().st_ino != own, "a namespace")
        ip.link("add", ifname=f"outside{number}", kind="veth", peer=link)
        index = ip.link_lookup(ifname=f"outside{number}")[0]
        ip.addr("add", index=index, address=f"10.9.{number}.1", prefixlen=24)
        ip.link("set", index=index, state="up")
        ip.link("set", index=ip.link_lookup(ifname=link)[0], net_ns_pid=program.process.pid)
        assert program.process.stdin is not None
        program.process.stdin.write("go\n")
        program.process.stdin.flush()
        yield program


@real(NETWORK)
def test_hosts_share_a_sweep(sweep: Path, tmp_path: Path) -> None:
    with network_namespace(), ExitStack() as stack:
        scheduler = stack.enter_context(running([*DASK, "scheduler", "--port", "8786", "--no-dashboard"]))
        wait_until(lambda: "Scheduler at" in scheduler.said, f"the scheduler: {scheduler.said}")
        run = [str(MPNET), "experiment", "run", str(sweep), "-o", str(tmp_path / "r")]
        run += ["--scheduler", "tcp://127.0.0.1:8786"]
        refused = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
        assert "none of the scheduler's 0 workers" in refused.stderr
        hosts = [stack.enter_context(host(number, tmp_path / f"dask{number}")) for number in (1, 2)]
        for each in hosts:
            wait_until(lambda each=each: "Registered to" in each.said, "a dask worker")
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr + "".join(each.said for each in hosts)
    records = read_records(tmp_path / "r")
    assert [record.trial for record in records] == [trial.id for trial in plan(parse(SWEEP, sweep))]
    assert {record.host for record in records} == {"host1", "host2"}
