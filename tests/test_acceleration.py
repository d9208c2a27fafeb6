"""Whether KVM serves a guest here: it is there, it opens, and it is a processor and no emulator of one."""

from pathlib import Path

import pytest

from mpnet.guest import debian
from mpnet.guest.linux import acceleration
from tests.real.asked import real


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    acceleration._best.cache_clear()


@pytest.mark.parametrize(
    ("there", "script", "expected"),
    [
        (False, "exit 33", "tcg"),
        (True, "exit 33", "kvm"),
        (True, "exit 1", "tcg"),  # no right to /dev/kvm, or it cannot make a processor
        (True, "exec sleep 60", "tcg"),  # an emulator, which takes minutes
    ],
)
def test_a_guest_must_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, script: str, expected: str
) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(f"#!/bin/sh\n{script}\n")
    qemu.chmod(0o755)
    monkeypatch.setattr(debian, "program", lambda _: qemu)
    monkeypatch.setattr(acceleration, "_KVM", tmp_path if there else tmp_path / "kvm")
    monkeypatch.setattr(acceleration, "_PROBE_SECONDS", 0.5)
    assert acceleration.best() == expected


@real("qemu")
def test_the_program_counts_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "_PROBE", acceleration._PROBE.replace("-accel kvm -cpu host", "-accel tcg"))
    monkeypatch.setattr(acceleration, "_PROBE_SECONDS", 60.0)
    monkeypatch.setattr(acceleration, "_KVM", tmp_path)
    assert acceleration.best() == "kvm"
