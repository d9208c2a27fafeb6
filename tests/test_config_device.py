"""Device strings: what is read, what is refused and where the caret stands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.config.cpus import MAX_CPU, format_cpus, parse_cpus
from mpnet.config.device import ENGINES, MAX_MTU, MAX_QUEUE_PAIRS, MIN_MTU, DeviceConfig
from mpnet.config.device_string import format_device, parse_device
from mpnet.config.place import PlacedError
from mpnet.config.setting import keys
from mpnet.errors import ConfigError
from mpnet.segment import layout

BASE = "id=net0,tap=tap0,socket=/run/mpnet/net0.sock"

_ids = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", fullmatch=True)
_taps = st.from_regex(r"[a-z0-9,=_-]{1,15}", fullmatch=True)
_backends = st.one_of(
    st.fixed_dictionaries({"tap": _taps, "create": st.booleans(), "engine": st.sampled_from(ENGINES)}),
    st.fixed_dictionaries({"backend": st.sampled_from(["null", "echo"])}),
)
_sockets = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=100).map(
    lambda path: f"/{path}"
)
_cpus = st.lists(st.integers(0, MAX_CPU), unique=True, max_size=20).map(tuple)
_macs = st.one_of(
    st.just(""),
    st.binary(min_size=6, max_size=6)
    .filter(lambda octets: any(octets) and not octets[0] & 1)
    .map(lambda octets: octets.hex(":")),
)


@st.composite
def configs(draw: st.DrawFn) -> DeviceConfig:
    queue_pairs = draw(st.integers(1, MAX_QUEUE_PAIRS))
    return DeviceConfig(
        id=draw(_ids),
        **draw(_backends),
        socket=draw(_sockets),
        queue_pairs=queue_pairs,
        workers=draw(st.none() | st.integers(1, queue_pairs)),
        cpus=draw(_cpus),
        mac=draw(_macs),
        mtu=draw(st.one_of(st.just(0), st.integers(MIN_MTU, MAX_MTU))),
        gro=draw(st.booleans()),
        gso=draw(st.booleans()),
        poll_us=draw(st.integers(0, 10_000)),
        client=draw(st.booleans()),
        users=draw(st.sampled_from([(), ("0",), ("libvirt-qemu", "64055")])),
    )


@given(configs())
def test_a_formatted_device_is_read_back(config):
    assert parse_device(format_device(config)) == config


@given(
    st.one_of(st.text(), st.lists(st.sampled_from([*keys(DeviceConfig), "=", ",", "1", "on", "x"])).map("".join))
)
def test_any_text_is_a_device_or_a_config_error(text):
    try:
        config = parse_device(text)
    except PlacedError as error:
        shown, carets = error.excerpt.splitlines()
        assert len(carets) <= len(shown) + 1
        assert carets.strip() == "^" * len(carets.strip())
    else:
        assert isinstance(config, DeviceConfig)


@given(_cpus)
def test_processors_are_read_back(cpus):
    if cpus:
        assert parse_cpus(format_cpus(cpus)) == parse_cpus(format_cpus(cpus, ",")) == cpus


def test_every_key_is_read():
    config = parse_device(
        BASE + ",queue-pairs=4,workers=2,cpus=0-2+8,mac=52:54:00:12:34:56,mtu=9000,create=on,client=off"
    )
    assert config == DeviceConfig(
        id="net0",
        tap="tap0",
        socket="/run/mpnet/net0.sock",
        queue_pairs=4,
        workers=2,
        cpus=(0, 1, 2, 8),
        mac="52:54:00:12:34:56",
        mtu=9000,
        create=True,
    )


def test_a_doubled_comma_is_a_comma_in_a_value():
    config = parse_device("id=net0,tap=tap0,socket=/run/a,,b,cpus=0,,4")
    assert config.socket == "/run/a,b"
    assert config.cpus == (0, 4)


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("id=net0,tap=tap0,sokcet=/x", "sokcet", "did you mean 'socket'?"),
        ("id=net0,tap=tap0,socket=/x,queue_pairs=2", "queue_pairs", "did you mean 'queue-pairs'?"),
        (BASE + ",queue-pairs=65", "65", "queue-pairs is 65, expected 1 to 64"),
        (BASE + ",queue-pairs=0", "0", "queue-pairs is 0, expected 1 to 64"),
        (BASE + ",queue-pairs=two", "two", "expected a whole number"),
        (BASE + ",queue-pairs=2,workers=3", "3", "workers is 3, expected 1 to 2"),
        (BASE + ",workers=-1", "-1", "workers is -1, expected 1 to 1"),
        (BASE + ",workers=0", "0", "workers is 0, expected 1 to 1"),
        (BASE + ",socket-mode=rw", "rw", "expected octal digits: as in socket-mode=0660"),
        (BASE + ",socket-mode=0999", "0999", "expected octal digits"),
        (BASE + ",socket-group=a:b", "a:b", "expected the name or number of a group"),
        (BASE + ",client=on,socket-mode=0660", "0660", "socket-mode is for a socket that mpnet makes"),
        (BASE + ",mtu=67", "67", "mtu is 67, expected 68 to 65521"),
        (BASE + ",mac=01:00:5e:00:00:01", "01:00:5e:00:00:01", "not a unicast address"),
        (BASE + ",mac=00:00:00:00:00:00", "00:00:00:00:00:00", "not a unicast address"),
        (BASE + ",mac=525400123456", "525400123456", "expected six octets"),
        (BASE + ",cpus=0-x", "0-x", "expected numbers and ranges"),
        (BASE + ",cpus=3-1", "3-1", "rising range"),
        (BASE + ",cpus=0-3+2", "0-3+2", "processor 2 twice"),
        (BASE + ",create=yes", "yes", "expected 'on' or 'off'"),
        (BASE + ",create", "create", "write it as create=…"),
        (BASE + ",id=net1", "net1", "a second time"),
        ("id=0net,tap=tap0,socket=/x", "0net", "expected a letter"),
        (
            "id=net0,tap=tap4567890123456,socket=/x",
            "tap4567890123456",
            "16 bytes long, but Linux takes names of 1 to 15",
        ),
        ("id=net0,tap=a/b,socket=/x", "a/b", "expected a name without"),
        ("id=net0,tap=tap%d,socket=/x", "tap%d", "expected a name without"),
        (
            f"id=net0,tap=tap0,socket=/{'s' * 107}",
            f"/{'s' * 107}",
            "108 bytes long, but a Unix socket's path has 1 to 107",
        ),
        (BASE + ",engine=fast", "fast", "expected one of auto, rw, uring"),
        ("id=net0,tap=tap0,socket=fd:x", "fd:x", "expected fd:N or a path"),
        (BASE + ",backend=bridge", "bridge", "backend is 'bridge', expected one of tap, null, echo"),
        (BASE + ",backend=null", "tap0", "tap is for a TAP, and backend=null has none"),
        ("id=net0,socket=/x,backend=echo,create=on", "on", "create is for a TAP"),
    ],
)
def test_an_error_points_at_its_word(text, word, expected):
    with pytest.raises(ConfigError) as caught:
        parse_device(text)
    message, shown, carets = str(caught.value).splitlines()
    assert expected in message
    start = carets.index("^")
    assert shown[start : len(carets)] == word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there is no key=value here"),
        (BASE + ",", "there is no key=value here"),
        (BASE + ",mac=", "mac has no value"),
        ("id=net0,tap=tap0", "the device has no socket"),
        ("id=net0,socket=/x,backend=tap", "the device has no tap"),
        ("mtu=1500", "the device has no id and no tap and no socket"),
    ],
)
def test_an_error_about_nothing_points_where_it_is_missing(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_device(text)
    message, _, carets = str(caught.value).splitlines()
    assert expected in message
    assert carets == "  " + " " * len(text) + "^"


def test_a_control_character_does_not_reach_the_terminal():
    with pytest.raises(PlacedError) as caught:
        parse_device("id=net0,\x1b[2J=1")
    assert "\x1b" not in caught.value.excerpt
    assert "\x1b" not in caught.value.problem


def test_the_address_derived_from_the_id_is_stable_local_and_unicast():
    first, second = (DeviceConfig(id=name, tap="tap0", socket="/x").mac_octets for name in ("net0", "net1"))
    assert first == DeviceConfig(id="net0", tap="tap9", socket="/y", mtu=1500).mac_octets
    assert first != second
    assert first[0] & 3 == second[0] & 3 == 2
    assert DeviceConfig(id="net0", tap="t", socket="/x", mac="52:54:00:12:34:56").mac_octets == b"RT\x00\x124V"


def test_there_is_a_worker_per_queue_pair_unless_said_otherwise():
    assert parse_device(BASE + ",queue-pairs=4").worker_count == 4
    assert parse_device(BASE + ",queue-pairs=4,workers=2").worker_count == 2


def test_an_inherited_socket_is_a_descriptor():
    assert parse_device("id=net0,tap=tap0,socket=fd:7").socket_fd == 7
    assert parse_device(BASE).socket_fd is None


def test_the_segment_has_room_for_every_device():
    assert layout.MAX_QUEUE_PAIRS == MAX_QUEUE_PAIRS


def test_users_are_names_or_numbers() -> None:
    assert parse_device(BASE + ",users=libvirt-qemu+64055").users == ("libvirt-qemu", "64055")
    with pytest.raises(PlacedError, match=r"users has '', expected names or numbers of users"):
        parse_device(BASE + ",users=root+")


@pytest.mark.parametrize(
    ("words", "mode"), [("", 0o600), (",socket-group=kvm", 0o660), (",socket-group=kvm,socket-mode=0600", 0o600)]
)
def test_a_group_may_use_its_socket(words, mode):
    assert parse_device(BASE + words).socket_permissions == mode
