"""The TOML file and how file, environment and flags lie over each other."""

import pytest

from mpnet.config.control import ControlConfig, parse_endpoint
from mpnet.config.device import DeviceConfig
from mpnet.config.device_string import parse_settings
from mpnet.config.file import read_file
from mpnet.config.layer import Layer, merge
from mpnet.config.place import Place
from mpnet.config.setting import Setting
from mpnet.errors import ConfigError

DEVICE = '[[device]]\nid = "net0"\ntap = "tap0"\nsocket = "/run/net0"\n'


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "mpnet.toml"

    def read(text):
        path.write_text(text)
        return merge([read_file(path)])

    return read


def _every_device(name, value):
    return {name: Setting(value, Place.whole(f"--{name}", str(value)))}


def test_a_whole_file_is_read(load):
    chosen = load(
        '[control]\nsocket = "/run/c"\nmetrics = "[::1]:9464"\nlog-format = "json"\n'
        + DEVICE
        + 'queue-pairs = 4\nworkers = 2\ncpus = [0, 2]\nmac = "52:54:00:12:34:56"\nmtu = 9000\ncreate = true\n'
        + DEVICE.replace("0", "1")
        + 'cpus = "0-3,8"\nclient = true\nusers = ["qemu", "0"]\n'
    )
    assert chosen.control == ControlConfig(socket="/run/c", metrics="[::1]:9464", log_format="json")
    first, second = chosen.devices
    assert (first.queue_pairs, first.workers, first.cpus, first.mtu, first.create) == (4, 2, (0, 2), 9000, True)
    assert second == DeviceConfig(
        id="net1", tap="tap1", socket="/run/net1", cpus=(0, 1, 2, 3, 8), client=True, users=("qemu", "0")
    )


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (DEVICE + "queue_pairs = 3\n", 5, "did you mean 'queue-pairs'?"),
        (DEVICE + "queue-pairs = 65  # many\n", 5, "queue-pairs is 65, expected 1 to 64"),
        (DEVICE + 'queue-pairs = "3"\n', 5, "queue-pairs is '3': Expected int, got str"),
        (DEVICE + "queue-pairs = true\n", 5, "Expected int, got bool"),
        (DEVICE + 'cpus = ["0"]\n', 5, "Expected int, got str"),
        (DEVICE + 'cpus = "0-"\n', 5, "expected numbers and ranges"),
        (DEVICE + DEVICE, 6, "device 'net0' is described twice"),
        (DEVICE + '[[device]]\ntap = "tap1"\n', 5, "the device has no id"),
        (DEVICE + '[[device]]\nid = "net1"\n', 5, "the device has no tap and no socket"),
        ('[control]\nmetrics = "9464"\n', 2, "expected HOST:PORT"),
        ('[control]\nlog-format = "xml"\n', 2, "expected one of auto, text, json"),
        ('[control]\nlog-level = "loud"\n', 2, "expected one of debug, info, warning, error"),
        ("[control]\nsockets = 1\n", 2, "did you mean 'socket'?"),
        ("[contrl]\n", 1, "unknown table or key 'contrl'"),
        ("workers = 3\n", 1, "unknown table or key 'workers'"),
        ("[device]\n", 1, "in double brackets"),
        ("control = 3\n", 1, "control is no table"),
    ],
)
def test_an_error_names_its_line(load, tmp_path, text, line, expected):
    with pytest.raises(ConfigError) as caught:
        load(text)
    message, shown, carets = str(caught.value).splitlines()
    assert message.startswith(f"{tmp_path}/mpnet.toml:{line}: ")
    assert expected in message
    assert shown == "  " + text.splitlines()[line - 1]
    assert "^" in carets


def test_a_value_of_several_lines_is_named_without_its_line(load):
    with pytest.raises(ConfigError, match=r"mpnet\.toml: cpus is"):
        load(DEVICE + "'cpus' . x = 3\n")


@pytest.mark.parametrize("content", [b"x", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_no_toml_is_refused(tmp_path, content):
    path = tmp_path / "mpnet.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a TOML file"):
        read_file(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml: No such file"):
        read_file(tmp_path / "no.toml")


def test_the_stronger_layer_wins_key_by_key():
    low, middle, high = Layer(), Layer(), Layer()
    whole = Place.whole("file", "")
    low.add_device(parse_settings("id=net0,tap=tap0,socket=/a,queue-pairs=8,workers=8,mtu=1500"), whole)
    low.add_device(parse_settings("id=net1,tap=tap1,socket=/b,queue-pairs=8,workers=8"), whole)
    middle.every_device = _every_device("workers", 4)
    high.every_device = _every_device("mtu", 9000)
    high.add_device(parse_settings("id=net0,workers=2"), whole)
    high.add_device(parse_settings("id=net2,tap=tap2,socket=/c,queue-pairs=8,mtu=1400"), whole)
    devices = merge([low, middle, high]).devices
    assert [(each.id, each.workers, each.mtu) for each in devices] == [
        ("net0", 2, 9000),
        ("net1", 4, 9000),
        ("net2", 4, 1400),
    ]


@pytest.mark.parametrize("key", ["tap", "socket"])
def test_devices_do_not_share(load, key):
    other = DEVICE.replace("0", "1")
    shared = next(line for line in DEVICE.splitlines() if line.startswith(key))
    own = next(line for line in other.splitlines() if line.startswith(key))
    with pytest.raises(ConfigError, match=f"'net0' and 'net1' have the same {key}"):
        load(DEVICE + other.replace(own, shared))


def test_the_management_socket_is_no_device_s(load):
    with pytest.raises(ConfigError, match="'net0' and the management socket have the same path /run/net0"):
        load('[control]\nsocket = "/run/net0"\n' + DEVICE)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9464", "127.0.0.1", 9464), ("[::1]:0", "::1", 0), ("host:65535", "host", 65535)],
)
def test_an_endpoint_is_read(text, host, port):
    assert parse_endpoint(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":1", "host", "host:", "host:x", "::1:9464", "host:65536", "host:-1", "h:٣"]
)
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ConfigError):
        parse_endpoint(text)
