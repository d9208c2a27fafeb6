"""``mpnet run``: which of its flags, variables and files is strongest, and what cannot be run."""

import json

import pytest

from mpnet.cli import run

NET0 = "id=net0,tap=tap0,socket=/run/net0.sock,queue-pairs=4"


@pytest.fixture
def served(invoke, monkeypatch):
    """Runs ``mpnet run`` up to where it would serve; gives what it would."""
    chosen = []
    monkeypatch.setattr(run, "_serve", lambda wanted, _reread: chosen.append(wanted))

    def call(*arguments, **environment):
        result = invoke("run", *arguments, **environment)
        assert result.exit_code == 0, result.output
        return chosen.pop()

    return call


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(served, tmp_path):
    path = tmp_path / "mpnet.toml"
    path.write_text(
        '[control]\nmetrics = "127.0.0.1:1"\nmetrics-names = ["a"]\nlog-format = "json"\nsocket = "/f"\n'
        '[[device]]\nid = "net0"\ntap = "tap0"\nsocket = "/x"\nqueue-pairs = 8\nworkers = 8\nmtu = 1400\n'
    )
    environment = {
        "MPNET_CONFIG": str(path),
        "MPNET_METRICS": "127.0.0.1:2",
        "MPNET_WORKERS": "4",
        "MPNET_CPUS": "0-1",
    }
    chosen = served("--metrics", "127.0.0.1:3", "--device", "id=net0,cpus=2", **environment)
    (net0,) = chosen.devices
    assert (net0.queue_pairs, net0.workers, net0.mtu, net0.cpus) == (8, 4, 1400, (2,))
    assert (chosen.control.metrics, chosen.control.log_format, chosen.control.socket) == (
        "127.0.0.1:3",
        "json",
        "/f",
    )


def test_every_flag_has_its_environment_variable(served):
    both = {
        "--device": NET0,
        "--queue-pairs": "8",
        "--workers": "2",
        "--cpus": "0-1,3",
        "--metrics": "127.0.0.1:9464",
        "--metrics-names": "host-a.example+mpnet.example",
        "--control-socket": "/run/c.sock",
        "--log-format": "json",
        "--log-level": "debug",
    }
    flags = served(*(word for item in both.items() for word in item))
    environment = {f"MPNET_{flag[2:].replace('-', '_').upper()}": value for flag, value in both.items()}
    assert served(**environment) == flags
    (net0,) = flags.devices
    assert (net0.queue_pairs, net0.workers, net0.cpus) == (4, 2, (0, 1, 3))
    assert flags.control.socket == "/run/c.sock"
    assert flags.control.metrics_names == ("host-a.example", "mpnet.example")


def test_every_parameter_has_an_environment_variable():
    silent = {"print_capabilities", "help"}
    missing = [each.name for each in run.run.params if not each.envvar and each.name not in silent]
    assert missing == []


def test_several_devices_are_served(served):
    chosen = served("--device", NET0, "--device", "id=net1,tap=tap1,socket=/y")
    assert [each.id for each in chosen.devices] == ["net0", "net1"]


def test_the_conventions_of_back_end_programs(served):
    (by_path,) = served("--socket-path", "/run/v.sock", "--tap", "tap0").devices
    assert (by_path.tap, by_path.socket, by_path.socket_fd) == ("tap0", "/run/v.sock", None)
    (by_fd,) = served("--fd", "3", "--tap", "tap0", "--queue-pairs", "2").devices
    assert (by_fd.socket_fd, by_fd.queue_pairs) == (3, 2)


def test_capabilities_are_printed_whatever_else_is_given(invoke):
    result = invoke("run", "--print-capabilities", "--workers", "nonsense")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"type": "net", "features": ["tap", "queue-pairs", "workers", "cpus"]}


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ((), 2, "there is no device to serve"),
        (("--tap", "tap0"), 1, "--tap: the device has no socket"),
        (("--socket-path", "/x"), 1, "--socket-path: the device has no tap"),
        (("--socket-path", "/x", "--fd", "3", "--tap", "t"), 1, "--fd: stands beside --socket-path"),
        (("--fd", "x"), 2, "'x' is not a valid integer range"),
        (("--device", NET0, "--workers", "5"), 1, "--workers: workers is 5, expected 1 to 4"),
        (("--device", NET0, "--cpus", "x"), 1, "--cpus: cpus has 'x'"),
        (("--device", NET0, "--metrics", "9464"), 1, "--metrics: metrics is '9464', expected HOST:PORT"),
        (("--device", NET0, "--log-format", "xml"), 1, "--log-format: log-format is 'xml'"),
        (("--device", NET0, "--device", NET0), 1, "device 'net0' is described twice"),
        (("--device", "id=net0,tpa=tap0"), 1, "did you mean 'tap'?"),
        (("--config", "/no/such.toml"), 1, "cannot read the configuration file /no/such.toml"),
    ],
)
def test_what_cannot_be_run_is_refused(invoke, arguments, status, expected):
    result = invoke("run", *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert expected in result.stderr


def test_an_error_names_the_variable_it_came_from(invoke):
    result = invoke("run", MPNET_DEVICE="id=net0,tap=a/b,socket=/x")
    assert result.stderr.splitlines() == [
        "mpnet: error: MPNET_DEVICE: tap is 'a/b', expected a name without '/', ':', '%' and white space: "
        "as in tap=tap0",
        "  id=net0,tap=a/b,socket=/x",
        "              ^^^",
    ]
