"""The commands: what they print where, and their exit status; control is faked beyond its socket."""

import json
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET

import msgspec
import pytest

import mpnet
from mpnet.cli import device, nic, worker
from mpnet.cli.main import COMMANDS
from mpnet.config.properties import PROPERTIES
from mpnet.errors import MpnetError
from mpnet.rpc.state import (
    ConfigReport,
    DeviceReport,
    PeerReport,
    RingReport,
    SessionReport,
    TapReport,
    WorkerReport,
)
from tests.real.running import MPNET


def _ring(index, **changes):
    values = {
        "queue": index // 2,
        "worker": 0,
        "direction": ("rx", "tx")[index % 2],
        "state": "running",
        "fault": "none",
        "size": 256,
        "available_entries": 255,
        "packets": 1_234_567,
        "bytes": 10,
        "kicks": 3,
        "calls": 4,
        "calls_suppressed": 5,
        "drops": {"short_chain": 0, "tap_down": 7},
    }
    return RingReport(**values | changes)


def _report(**changes):
    values = {
        "id": "net0",
        "config": ConfigReport(socket="/run/net0.sock"),
        "mac": "52:54:00:12:34:56",
        "mtu": 1500,
        "link": "up",
        "poll_us": 0,
        "queue_pairs": 2,
        "offered_pairs": 2,
        "enabled_pairs": 1,
        "features": ["MQ"],
        "features_offered": ["MQ", "MRG_RXBUF"],
        "session": SessionReport(state="running", front_end=PeerReport(pid=42, name="qemu"), connections=3),
        "tap": TapReport(name="tap0", up=True),
        "rings": [_ring(index) for index in range(4)],
        "workers": [
            WorkerReport(
                slot=0,
                state="running",
                pid=7,
                cpu=None,
                age=3700,
                pairs=[0, 1],
                restarts={"killed": 2},
                engine="rw",
                code="compiled",
            )
        ],
        "start_to_first_ring_seconds": 1.125,
        "start_to_first_packet_seconds": 1.25,
    }
    return DeviceReport(**values | changes)


class FakeControl:
    """Answers the calls of the commands from one report and keeps them."""

    def __init__(self):
        self.report = _report()
        self.calls = []

    def call(self, _socket, method, **params):
        self.calls.append((method, params))
        if params.get("device", "net0") != "net0":
            raise MpnetError(f"there is no device {params['device']!r}", "see 'mpnet device list'")
        document = msgspec.to_builtins(self.report)
        if method == "device.list":
            return [document]
        if method == "worker.list":
            return [worker | {"device": "net0"} for worker in document["workers"]]
        return document


@pytest.fixture
def control(monkeypatch):
    fake = FakeControl()
    monkeypatch.setattr(device, "call", fake.call)
    monkeypatch.setattr(nic, "call", fake.call)
    monkeypatch.setattr(worker, "call", fake.call)
    for module in (device, worker):
        monkeypatch.setattr(module, "ask_all", fake.call)
    monkeypatch.setattr(device.version, "installed", lambda: (10, 1))
    monkeypatch.setattr(device.acceleration, "best_or_kvm", lambda: "kvm")
    return fake


# The program.


def test_help_names_every_command_and_imports_none():
    code = (
        "import sys; from mpnet.cli.main import cli; cli(['--help'], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    loaded = set(done.stderr.split())
    assert not loaded & {"numba", "numpy", "rich", "asyncio", "prometheus_client", "psutil", "mpnet.cli.run"}


def test_asking_control_does_without_the_data_path():
    code = "import sys, mpnet.cli.device, mpnet.cli.worker, mpnet.cli.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not set(done.stdout.split()) & {"numba", "numpy", "prometheus_client"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(invoke, name):
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: mpnet {name}")


def test_version(invoke):
    assert mpnet.__version__ in invoke("--version").stdout


def test_an_unknown_command_is_a_usage_error(invoke):
    result = invoke("destroy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'destroy'" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(invoke, shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_MPNET_COMPLETE" in result.stdout


def test_an_error_is_one_line_on_stderr(invoke, tmp_path):
    result = invoke("device", "list", "--control-socket", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("mpnet: error: no control process listens at ")
    assert len(result.stderr.splitlines()) == 1


def test_a_capture_that_cannot_begin_leaves_files_alone(invoke, tmp_path):
    kept = tmp_path / "kept.pcapng"
    kept.write_text("of yesterday")
    for path in (kept, tmp_path / "new.pcapng"):
        result = invoke("capture", "net0", "-w", str(path), "--control-socket", str(tmp_path / "none"))
        assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept.pcapng"]
    assert kept.read_text() == "of yesterday"


# Devices and workers.


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("device", "list"), ("device.list", {})),
        (("device", "show", "net0"), ("device.show", {"device": "net0"})),
        (
            ("device", "set", "net0", "combined", "2"),
            ("device.set", {"device": "net0", "name": "combined", "value": "2"}),
        ),
        (("worker", "list"), ("worker.list", {})),
        (("worker", "scale", "net0", "2"), ("worker.scale", {"device": "net0", "count": 2})),
    ],
)
def test_each_command_asks_and_prints_for_people_and_programs(invoke, control, arguments, call):
    people, programs = invoke(*arguments), invoke(*arguments, "--json")
    assert people.exit_code == programs.exit_code == 0, people.output + programs.output
    assert "net0" in people.stdout
    assert programs.stdout == json.dumps(control.call(None, call[0]), indent=2) + "\n"
    assert control.calls[:2] == [call, call]
    assert people.stderr == programs.stderr == ""


def test_show_tells_what_matters(invoke, control):
    control.report.rings[3] = _ring(3, state="broken", fault="chain_loop")
    text = invoke("device", "show", "net0").stdout
    for expected in (
        "broken (chain_loop)",
        "1,234,567",
        "tap_down=7",
        "qemu, process 42",
        "1.250 s, 1.125 s of them until a guest came",
        "killed=2",
        "1h01m",
    ):
        assert expected in text
    assert "short_chain" not in text


@pytest.mark.parametrize("columns", [80, 100, 132])
def test_nothing_is_cut_however_narrow_the_screen(invoke, control, columns):
    big = 123_456_789_012
    counters = ("packets", "bytes", "kicks", "calls", "calls_suppressed")
    rings = [
        _ring(
            index,
            state="broken",
            fault="chain_too_long",
            drops={"short_chain": big + 100 * index + 5, "tap_down": big + 100 * index + 6},
            **{name: big + 100 * index + place for place, name in enumerate(counters)},
        )
        for index in range(4)
    ]
    socket = "/run/mpnet/a-device-with-a-long-name/and-another-folder/net0.vhost-user.sock"
    workers = [
        WorkerReport(
            slot=0, state="being replaced", pid=4_194_303, cpu=127, age=1e6, pairs=list(range(40)),
            restarts={"killed": big + 8, "heartbeat": big + 9}, engine="uring",
            code="interpreted",
        )
    ]  # fmt: skip
    control.report = _report(
        id="a-device-with-a-long-name", config=ConfigReport(socket=socket), rings=rings, workers=workers
    )
    said = {}
    for command in (("device", "list"), ("device", "show", "net0"), ("worker", "list")):
        text = invoke(*command, COLUMNS=str(columns)).stdout
        assert max(map(len, text.splitlines())) <= columns
        assert "…" not in text
        said[command[:2]] = "".join(text.split())
    for index in range(4):
        for place in range(7):
            assert f"{big + 100 * index + place:,}" in said["device", "show"]
    for report in (said["device", "show"], said["worker", "list"]):
        for figure in (f"killed={big + 8:,}", f"heartbeat={big + 9:,}", "4194303", "127", "277h46m", "3839"):
            assert figure in report.replace(" ", "")
    assert "/net0.vhost-user.sock" in said["device", "list"]
    assert "1/2" in said["device", "list"]


UNSHARED = SessionReport(
    state="running",
    front_end=PeerReport(pid=42, name="qemu"),
    connections=1,
    memory_regions=3,
    memory_regions_unshared=2,
)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"rings": [_ring(0), _ring(1, state="broken")]}, "broken"),
        ({"rings": [_ring(0, state="stopped")]}, "connected"),
        ({"rings": [], "session": SessionReport(state="listening", front_end=None, connections=0)}, "waiting"),
        ({"session": UNSHARED}, "unshared"),
    ],
)
def test_the_state_is_one_word(changes, state):
    assert _report(**changes).state == state


def test_show_names_memory_that_did_not_come(invoke, control):
    session = SessionReport(state="listening", front_end=None, connections=1, unmapped_rings=1)
    control.report = _report(session=session, rings=[])
    said = invoke("device", "show", "net0").stdout
    assert "a ring lies in none of 0 regions: give the guest's memory share=on" in said
    assert control.report.state == "unshared"


def test_show_names_memory_that_is_not_shared(invoke, control):
    control.report = _report(session=UNSHARED)
    said = invoke("device", "show", "net0").stdout
    assert "2 of 3 regions are not shared: give the guest's memory share=on" in said


def test_qemu_options_are_one_line_for_a_shell(invoke, control):
    options = ("--accel", "kvm", "--qemu-version", "10.1.3")
    line, document = (
        invoke("device", "qemu", "net0", "--memory", "2048", *options),
        invoke("device", "qemu", "net0", "--json", *options),
    )
    words = shlex.split(line.stdout)
    assert line.stderr == ""
    assert len(line.stdout.splitlines()) == 1
    assert "memory-backend-memfd,id=mem,size=2048M,share=on" in words
    assert "vhost-user,id=net0,chardev=net0-socket,queues=2" in words
    assert any("path=/run/net0.sock" in word for word in words)
    assert any("mac=52:54:00:12:34:56" in word and "vectors=6" in word for word in words)
    assert len(json.loads(document.stdout)) == len(words)


@pytest.mark.parametrize(
    ("known", "accel", "expected"),
    [
        ((7, 2), "tcg", {"reconnect=1", "vectors=0"}),
        ((7, 2), "kvm", {"reconnect=1", "vectors=6"}),
        ((9, 2), "tcg", {"reconnect-ms=1000", "vectors=0"}),
        ((10, 0), "tcg", {"reconnect-ms=1000", "vectors=6"}),
        (None, "kvm", {"reconnect-ms=1000", "vectors=6"}),
    ],
)
def test_qemu_options_suit_the_qemu_and_the_accelerator_that_are_here(
    invoke, control, monkeypatch, known, accel, expected
):
    monkeypatch.setattr(device.version, "installed", lambda: known)
    monkeypatch.setattr(device.acceleration, "best_or_kvm", lambda: accel)
    done = invoke("device", "qemu", "net0")
    words = set(done.stdout.replace(",", " ").split())
    assert {word for word in words if word.startswith(("reconnect", "vectors"))} == expected
    assert (done.stderr == "") == (known is not None), "what is only supposed is said"
    assert f'type="{"kvm" if accel == "kvm" else "qemu"}"' in invoke("device", "xml", "net0").stdout
    said = invoke("device", "qemu", "net0", "--accel", "kvm", "--qemu-version", "8.0").stdout
    assert "reconnect=1," not in said
    assert "reconnect=1 " in said
    assert "vectors=6" in said


def test_a_version_that_is_none_is_named(invoke, control):
    done = invoke("device", "qemu", "net0", "--qemu-version", "new")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the version of QEMU is 'new', expected two numbers like 10.1" in done.stderr


def test_xml_is_well_formed(invoke, control):
    domain = ET.fromstring(invoke("device", "xml", "net0").stdout)  # noqa: S314 - our own
    assert domain.find("devices/interface/source").get("path") == "/run/net0.sock"
    assert json.loads(invoke("device", "xml", "net0", "-j").stdout)["xml"].startswith("<domain")


def test_qemu_cannot_attach_to_a_device_that_connects(invoke, control):
    control.report.config = ConfigReport(socket="/x", client=True)
    result = invoke("device", "qemu", "net0")
    assert result.exit_code == 1
    assert "serve the device without client=on" in result.stderr


def test_an_answer_of_control_may_be_an_error(invoke, control):
    result = invoke("device", "show", "net9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "mpnet: error: there is no device 'net9': see 'mpnet device list'\n"


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_bad_count_is_a_usage_error(invoke, control, count):
    assert invoke("worker", "scale", "net0", "--", count).exit_code == 2
    assert control.calls == []


def test_json_may_come_from_the_environment(invoke, control):
    assert json.loads(invoke("device", "list", MPNET_JSON="1").stdout)[0]["id"] == "net0"


def test_device_set_names_and_completes_its_properties(invoke):
    text = " ".join(invoke("device", "set", "--help").stdout.split())
    for name, meaning in PROPERTIES.items():
        assert f"{name}: {meaning}." in text
    refused = invoke("device", "set", "net0", "speed", "1")
    assert refused.exit_code == 2
    assert "'speed' is not one of" in refused.stderr

    def completed(words, last):
        place = str(len(words.split()) + 1)
        environment = {
            "_MPNET_COMPLETE": "bash_complete",
            "COMP_WORDS": f"mpnet {words} {last}",
            "COMP_CWORD": place,
        }
        done = subprocess.run(
            [MPNET], env=os.environ | environment, capture_output=True, text=True, check=True, timeout=60
        )
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert completed("device set net0", "") == list(PROPERTIES)
    assert completed("device set net0", "m") == ["mtu", "mac"]
    assert completed("device set net0 link", "") == ["up", "down"]
    assert completed("device set net0 mtu", "") == []
