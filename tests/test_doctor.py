"""``mpnet doctor``: what is found missing, and what mends it."""

import json
import subprocess
from pathlib import Path

import pytest

from mpnet.cli import checks, doctor, security
from mpnet.cli.checks import Finding, Outcome
from mpnet.jit import cache
from mpnet.segment import process
from mpnet.segment.segment import Segment
from tests.real.running import wait_until
from tests.squatting import KINDS, clear, squat


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.OK, 0), (Outcome.OPTIONAL, 0), (Outcome.MISSING, 1)])
def test_the_doctors_status_tells_what_is_needed(invoke, monkeypatch, outcome, status):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [Finding("thing", outcome, "detail", "remedy")],))
    people, programs = invoke("doctor"), invoke("doctor", "-j")
    assert people.exit_code == programs.exit_code == status
    assert "thing: detail\n          remedy\n" in people.stdout
    assert json.loads(programs.stdout) == [
        {"name": "thing", "outcome": outcome.value, "detail": "detail", "remedy": "remedy"}
    ]


def test_every_check_ends_with_a_finding_and_a_remedy_where_it_matters():
    findings = [finding for check in checks.CHECKS for finding in check()]
    assert len({finding.name for finding in findings}) >= len(checks.CHECKS)
    assert all(finding.remedy for finding in findings if finding.outcome is not Outcome.OK)


def test_the_doctor_tells_what_workers_give_up_here_and_how_to_let_them(invoke):
    findings = json.loads(invoke("doctor", "--security", "-j").stdout)
    outcomes = {finding["name"]: finding["outcome"] for finding in findings}
    assert {outcomes[name] for name in ("capabilities", "no new privileges", "not dumpable")} == {"ok"}
    assert "system calls" in outcomes
    assert all(finding["remedy"] for finding in findings if finding["outcome"] != "ok")


def test_the_doctor_tells_what_a_worker_that_runs_has_not_given_up():
    segment = Segment.create("test-doctor", 1)
    title = process.worker_title("test-doctor", 0)
    with subprocess.Popen([title], executable="/bin/cat", stdin=subprocess.PIPE) as worker:
        segment.workers[0].pid = worker.pid
        wait_until(lambda: process.title(worker.pid) == title, "the program is there, and not only its process")
        (finding,) = [each for each in security.check_workers() if "test-doctor" in each.name]
        worker.communicate()
    segment.unlink()
    assert finding.outcome is Outcome.OPTIONAL
    assert "new privileges, every system call, control's net namespace" in finding.detail


def test_a_missing_tun_device_names_its_commands(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "_TUN", tmp_path / "net" / "tun")
    (finding,) = checks.check_tun()
    assert finding.outcome is Outcome.MISSING
    assert "modprobe tun" in finding.remedy
    assert "mknod" in finding.remedy


def test_too_few_open_files_are_found(monkeypatch):
    monkeypatch.setattr(checks.resource, "getrlimit", lambda _: (256, 512))
    assert next(iter(checks.check_limits())).outcome is Outcome.MISSING


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_has_the_name_of_shared_memory_is_found(kind):
    path = squat("test-doctor", kind)
    try:
        findings = list(checks.check_leftovers())
    finally:
        clear(path)
    (odd,) = [finding for finding in findings if "test-doctor" in finding.detail]
    assert (odd.outcome, bool(odd.remedy)) == (Outcome.OPTIONAL, True)


def test_a_user_without_a_home_keeps_no_compiled_code(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in (cache.CHOSEN, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    cache.folders.cache_clear()
    (finding,) = checks.check_cache()
    assert (finding.outcome, finding.detail) == (Outcome.MISSING, "this user has no home")
    assert "XDG_CACHE_HOME" in finding.remedy


@pytest.mark.parametrize(
    ("release", "harms"),
    [
        ("6.19.14-amd64", False), ("7.0.0", True), ("7.0-rc3", True), ("7.0.12+deb14-amd64", True),
        ("7.1.4", True), ("7.1.5-cloud", False), ("7.2.0", False), ("gnumach", False),
    ],
)  # fmt: skip
def test_a_kernel_that_mangles_coalesced_udp_is_named(monkeypatch, release, harms):
    monkeypatch.setattr(checks.kernel.platform, "release", lambda: release)
    (finding,) = checks.check_kernel()
    assert (finding.outcome is Outcome.OPTIONAL) == harms == ("gro=off" in finding.remedy)
