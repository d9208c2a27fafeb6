"""What workers use of the machine, sampled for metrics: it survives restarts and never falls."""

import os
import subprocess
import uuid

import pytest

from mpnet.control import usage
from mpnet.control.usage import Usage, Usages
from mpnet.segment.segment import Segment


@pytest.fixture
def segment():
    made = Segment.create(f"test-{uuid.uuid4().hex[:12]}", 2)
    yield made
    made.unlink()
    vars(made).clear()  # unmaps it: pytest keeps the last test's fixtures


class FakeProcess:
    """A process that used what it is told to have used; ``used`` is None once it has ended."""

    def __init__(self, used):
        self.used = used

    def usage(self):
        return self.used


def test_what_counts_up_survives_a_restart_and_never_falls(monkeypatch, segment):
    first = Usage(1.0, 2.0, 3, 4, 5000, 6000, alive=True)
    processes = {11: FakeProcess(first), 12: FakeProcess(first._replace(user=0.5, anonymous_bytes=100))}
    monkeypatch.setattr(usage, "_find", processes.get)
    usages, worker = Usages(), segment.workers[0]
    worker.pid, worker.start_ns = 11, 1
    assert usages.sample(segment)[0] == first
    processes[11].used = None
    gone = first._replace(anonymous_bytes=0, shared_bytes=0, alive=False)
    assert usages.sample(segment)[0] == gone
    worker.pid = 0
    assert usages.sample(segment)[0] == gone
    worker.pid, worker.start_ns = 12, 2
    assert usages.sample(segment)[0] == Usage(1.5, 4.0, 6, 8, 100, 6000, alive=True)
    usages.forget(segment.name)
    assert usages.sample(segment)[0].user == 0.5


def test_only_a_worker_that_did_something_is_looked_at(monkeypatch, segment):
    process = FakeProcess(Usage(1.0, 2.0, 3, 4, 5000, 6000, alive=True))
    monkeypatch.setattr(usage, "_find", {11: process}.get)
    usages, worker = Usages(), segment.workers[0]
    worker.pid, worker.start_ns = 11, 1
    usages.keep_up(segment)
    process.used = process.used._replace(user=7.0)
    usages.keep_up(segment)
    worker.pid = 0
    assert usages.sample(segment)[0].user == 1.0
    worker.pid, worker.start_ns = 11, 2
    usages.keep_up(segment)
    process.used = process.used._replace(user=9.0)
    worker.burst_packets += 1
    usages.keep_up(segment)
    worker.pid = 0
    assert usages.sample(segment)[0].user == 10.0


def test_what_is_told_of_a_process_is_its_own(segment):
    sum(range(2_000_000))
    segment.workers[0].pid, segment.workers[0].start_ns = os.getpid(), 1
    used = Usages().sample(segment)[0]
    assert 0 < used.user + used.system <= sum(os.times()[:2]) + 0.02  # the kernel counts in hundredths
    assert 1 << 20 < used.anonymous_bytes < 1 << 36


def test_a_process_that_has_a_dead_workers_number_is_not_taken_for_it():
    process = usage._Process(os.getpid())
    assert process.usage().alive
    process._start = b"1"
    assert process.usage() is None


def test_a_worker_that_is_gone_counts_nothing(segment):
    ended = subprocess.Popen(["true"])
    ended.wait()
    segment.workers[0].pid, segment.workers[0].start_ns = ended.pid, 1
    assert Usages().sample(segment) == [Usage(), Usage()]
