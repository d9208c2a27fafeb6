"""mpnet as systemd runs it: its units, what it tells the service manager, sockets handed over, reloading."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpnet.config.file import read_file
from mpnet.config.layer import merge
from mpnet.control import systemd
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.driver import Driver, Setup
from mpnet.rpc.management import Client
from tests.real.asked import real
from tests.real.running import MPNET, wait_until
from tests.real.systemd import Systemd, systemd_can_run

UNITS = Path(__file__).parent.parent / "packaging/systemd"
WATCHDOG_SECONDS = 0.4
START_SECONDS = 240
"""As a start may compile the data path."""
EXPOSURE = 31
"""Tenths: what systemd-analyze calls OK ends at 50. Six are the namespaces that workers go into."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mpnet-") as name:
        yield Path(name)


def write_config(folder: Path, **changes: object) -> Path:
    settings = {"queue-pairs": 2, "workers": 1, "mtu": 1500, **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = folder / "net0.toml"
    path.write_text(
        f'[[device]]\nid = "unit-test"\nbackend = "null"\nsocket = "{folder / "net0.sock"}"\n' + "\n".join(lines)
    )
    return path


def command(folder: Path) -> list[str]:
    control = ("--control-socket", str(folder / "control.sock"))
    return [str(MPNET), "run", "--log-format", "json", "--config", str(write_config(folder)), *control]


@contextlib.contextmanager
def started(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended as systemd ends it, and must end well."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
    assert status == 0, (folder / "log").read_text()


def answers(path: Path) -> bool:
    """Whether a control process answers at its socket, which is there before it listens."""
    with contextlib.suppress(MpnetError), Client(path) as client:
        return bool(client.call("control.show"))
    return False


# The units.


@real("systemd")
@pytest.mark.parametrize("unit", ["mpnet@.service", "mpnet@.socket"])
def test_systemd_finds_no_fault_in_a_unit(tmp_path: Path, unit: str) -> None:
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/mpnet/bin/mpnet", str(MPNET)))
    verify = [debian.program("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run([*verify, str(tmp_path / unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@real("systemd")
def test_the_service_is_confined() -> None:
    done = subprocess.run(
        [debian.program("systemd-analyze"), "security", "--offline=true", f"--threshold={EXPOSURE}",
         str(UNITS / "mpnet@.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_is_a_configuration_and_its_socket_is_the_units() -> None:
    example = UNITS.parent / "net0.toml"
    unit = (UNITS / "mpnet@.socket").read_text().replace("%i", "net0")
    (path,) = [
        line.removeprefix("ListenStream=") for line in unit.splitlines() if line.startswith("ListenStream")
    ]
    (device,) = merge([read_file(example)]).devices
    assert device.socket == path


# The units under systemd itself.


@pytest.mark.skipif(not systemd_can_run(), reason="systemd takes root and a cgroup that may be written to")
def test_systemd_starts_watches_reloads_and_stops_a_device(folder: Path) -> None:
    service, sock = "mpnet@net0.service", "/run/mpnet/net0.sock"
    with Systemd(folder) as manager:

        def show(what: str) -> str:
            return manager.systemctl("show", "--property", what, "--value", service)

        manager.follow("As a service")
        assert (show("ActiveState"), show("UnitFileState")) == ("active", "enabled")
        manager.systemctl("stop", service)
        assert (show("ActiveState"), manager.path(sock).is_socket()) == ("inactive", True)
        with Driver.connect(manager.path(sock), Setup(queue_pairs=2), START_SECONDS) as driver:
            driver.send(0, [bytes(60)])
        wait_until(lambda: show("ActiveState") == "active", "READY is understood", START_SECONDS)
        assert show("StatusText") == "serving net0"
        first = show("MainPID")
        rights = manager.path(f"/proc/{first}/status").read_text()
        assert re.search(r"CapEff:\s0000000000001000\n", rights), "CAP_NET_ADMIN and nothing else"
        assert re.search(r"NoNewPrivs:\s1\nSeccomp:\s2\n", rights)
        found = json.loads(manager.run("/opt/mpnet/bin/mpnet", "doctor", "--security", "-j").stdout)
        workers = [each for each in found if each["name"].startswith("worker ")]
        assert [each["outcome"] for each in workers] == ["ok", "ok"], workers
        assert "workers are not fully isolated" not in manager.path("/run/log").read_text()
        manager.systemctl("reload", service)

        def replaced() -> bool:
            return show("ActiveState") == "active" and show("MainPID") not in {"0", first}

        manager.systemctl("kill", "--kill-who=main", "--signal=KILL", service)
        wait_until(replaced, "a control process that crashed is replaced", START_SECONDS)
        with Driver.connect(manager.path(sock), Setup(queue_pairs=2), START_SECONDS) as driver:
            driver.send(1, [bytes(60)])
        manager.systemctl("stop", service)
        assert (show("ActiveState"), show("Result")) == ("inactive", "success")
        assert list(manager.path("/dev/shm").iterdir()) == []  # noqa: S108 - where Linux shows POSIX shared memory
        assert manager.path(sock).is_socket(), "the socket is systemd's"

        soon = manager.path("/etc/systemd/system/mpnet@.service.d/soon.conf")
        soon.write_text("[Service]\nWatchdogSec=1\nRestart=on-watchdog\n")
        manager.systemctl("daemon-reload")
        manager.systemctl("start", service)
        # On a machine that is slow it may have been found to hang already: that is as good.
        manager.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", service)
        wait_until(lambda: int(show("NRestarts")) > 0, "a control process that hangs is replaced", START_SECONDS)

        manager.follow("Upgrading and uninstalling", 1)
        assert show("LoadState") == "not-found"
        left = [place for place in ("/opt/mpnet", "/etc/mpnet", "/run/mpnet") if manager.path(place).exists()]
        assert left == []
        assert not list(manager.path("/etc/systemd/system").rglob("mpnet*"))
        assert manager.run("id", "mpnet").returncode == 1


# What the service manager is told.


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(START_SECONDS)
        yield sock


def told(manager: socket.socket, *, until: str) -> list[str]:
    """Messages up to the first that begins with a word; it is the last of them."""
    messages: list[str] = []
    while not messages or not messages[-1].startswith(until):
        messages.append(manager.recv(4096).decode())
    return messages


def test_the_service_manager_hears_of_start_life_reload_and_end(folder: Path, manager: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
    with started(folder, *command(folder), **environment):
        (ready,) = told(manager, until="READY=1")
        assert "unit-test" in ready
        with Client(folder / "control.sock") as client:  # it is there once READY is
            assert client.call("control.show")["devices"] == ["unit-test"]
        assert told(manager, until="WATCHDOG=1")
        assert told(manager, until="WATCHDOG=1") == ["WATCHDOG=1"], "and again"
        before = time.monotonic_ns() // 1000
        subprocess.run([MPNET, "reload", "--control-socket", str(folder / "control.sock")], check=True)
        reloading = told(manager, until="RELOADING=1")[-1]
        assert before <= int(reloading.partition("MONOTONIC_USEC=")[2]) <= time.monotonic_ns() // 1000
        told(manager, until="READY=1")
    assert told(manager, until="STOPPING=1")


@pytest.mark.parametrize("address", ["@mpnet-test-{pid}", "{folder}/net@0"])
def test_an_abstract_address_is_told_apart(monkeypatch: pytest.MonkeyPatch, folder: Path, address: str) -> None:
    address = address.format(pid=os.getpid(), folder=folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address if address[0] == "/" else f"\0{address[1:]}")
        sock.settimeout(START_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        systemd.notify("READY=1", "STATUS=a")
        assert sock.recv(100) == b"READY=1\nSTATUS=a"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("3000000", None, 1.5), ("3000000", "1", None), ("", None, None), ("no", None, None), ("0", None, None)],
)
def test_a_watchdog_is_fed_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_seconds() == seconds


# Sockets that systemd has opened.


@real("systemd")
def test_a_front_end_that_comes_first_starts_the_service(folder: Path) -> None:
    sockets = [folder / "net0.sock", folder / "control.sock"]
    activate = [str(debian.program("systemd-socket-activate")), *(f"--listen={path}" for path in sockets)]
    activate += [f"--setenv={name}" for name in os.environ]  # it passes few on by itself
    with started(folder, *activate, *command(folder)):
        wait_until(sockets[0].exists, "systemd listens")
        # Nothing of mpnet runs yet; this connection waits until it does.
        with Driver.connect(sockets[0], Setup(queue_pairs=2), START_SECONDS) as driver:
            driver.send(0, [bytes(60)])
            with Client(sockets[1]) as client:
                report = client.call("device.show", device="unit-test")
            assert report["session"]["state"] == "running"
    assert [path.exists() for path in sockets] == [True, True], "they are systemd's to remove"


# Reloading.


def test_what_can_change_while_it_runs_does_and_the_rest_is_named(folder: Path) -> None:
    reload = [str(MPNET), "reload", "--control-socket", str(folder / "control.sock")]
    with started(folder, *command(folder)):
        wait_until(lambda: answers(folder / "control.sock"), "mpnet run serves", START_SECONDS)

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*reload, *words], capture_output=True, text=True, check=False)

        same = run()
        assert (same.returncode, same.stdout) == (0, "nothing has changed\n")
        write_config(folder, workers=2, mac="52:54:00:00:00:09", **{"poll-us": 50, "cpus": "0"})
        changed = run()
        assert changed.stdout.splitlines() == [
            "device unit-test: workers=2",
            "device unit-test: mac=52:54:00:00:00:09",
            "device unit-test: poll-us=50",
        ]
        assert changed.returncode == 1
        assert "device unit-test: cpus=(0,): it takes a restart, or" in changed.stderr
        with Client(folder / "control.sock") as client:
            report = client.call("device.show", device="unit-test")
        shown = (len(report["workers"]), report["mac"], report["poll_us"])
        assert shown == (2, "52:54:00:00:00:09", 50)
        write_config(folder, workers=9)
        broken = run()
        assert broken.returncode == 1
        assert "workers is 9, expected 1 to 2" in broken.stderr
        write_config(folder, workers=2, mac="52:54:00:00:00:09", **{"poll-us": 50})
        assert run("--json").stdout == '{\n  "changed": [],\n  "refused": []\n}\n'
