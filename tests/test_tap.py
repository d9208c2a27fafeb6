"""TAP queues in a network namespace of the test's own, and the errors of TAPs that cannot be used."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from mpnet.errors import TapError
from mpnet.tap import ioctls, link
from mpnet.tap.tap import Tap
from mpnet.virtio.features import Feature, mask
from tests.real.netns import network_namespace

GUEST = mask(
    Feature.GUEST_CSUM,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.GUEST_ECN,
    Feature.GUEST_USO4,
    Feature.GUEST_USO6,
)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def _queues(name: str) -> tuple[int, int]:
    """Queues the kernel counts as attached, and as detached."""
    with IPRoute() as netlink:
        message = next(iter(netlink.link("get", ifname=name)))
    data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    return data.get_attr("IFLA_TUN_NUM_QUEUES"), data.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES")


def _carrier(name: str) -> int:
    with IPRoute() as netlink:
        return int(next(iter(netlink.link("get", ifname=name))).get_attr("IFLA_CARRIER"))


def test_queues_are_detached_until_they_are_attached() -> None:
    tap = Tap.open("t0", 4, create=True)
    assert (tap.attached, _queues("t0")) == (frozenset(), (0, 4))
    tap.attach(2)
    tap.attach(2)
    assert (tap.attached, _queues("t0")) == ({2}, (1, 3))
    tap.detach(2)
    tap.detach(2)
    assert (tap.attached, _queues("t0")) == (frozenset(), (0, 4))
    tap.close()


def test_a_tap_made_here_is_up_and_vanishes_with_its_last_holder() -> None:
    tap = Tap.open("t0", 1, create=True)
    assert tap.created
    assert tap.up
    held = os.dup(tap.fds[0])
    tap.close()
    assert link.find("t0") is not None
    os.close(held)
    assert link.find("t0") is None


def test_fds_do_not_block_nor_reach_programs_that_are_started() -> None:
    tap = Tap.open("t0", 1, create=True)
    tap.attach(0)
    assert not os.get_blocking(tap.fds[0])
    assert not os.get_inheritable(tap.fds[0])
    tap.close()


def test_a_frame_passes_with_a_header_of_12_bytes() -> None:
    tap = Tap.open("t0", 2, create=True)
    tap.attach(1)
    Path("/proc/sys/net/ipv6/conf/t0/disable_ipv6").write_text("1")
    _ip("addr add 10.1.1.1/24 dev t0")
    _ip("neigh add 10.1.1.2 lladdr 02:00:00:00:00:02 dev t0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.1.1.2", 9))
    data = os.read(tap.fds[1], 2048)
    while data[24:26] != b"\x08\x00":
        data = os.read(tap.fds[1], 2048)
    assert data[12:18] == bytes.fromhex("020000000002")
    tap.close()


def test_offloads_are_probed_and_set_whether_a_queue_is_attached_or_not() -> None:
    tap = Tap.open("t0", 2, create=True)
    assert tap.offloads() == GUEST
    tap.set_features(GUEST)
    tap.attach(1)
    tap.set_features(0)
    assert tap.offloads() == GUEST
    assert tap.attached == {1}
    tap.close()


def test_offloads_without_their_dependency_are_an_error() -> None:
    tap = Tap.open("t0", 1, create=True)
    with pytest.raises(TapError, match="does not take offloads 0x8"):
        tap.set_features(mask(Feature.GUEST_ECN))
    tap.close()


def test_the_carrier_stays_as_set_while_queues_come_and_go() -> None:
    tap = Tap.open("t0", 2, create=True)
    tap.attach(0)
    tap.set_carrier(up=False)
    assert _carrier("t0") == 0
    tap.detach(0)
    tap.attach(1)
    assert _carrier("t0") == 0
    tap.set_carrier(up=True)
    assert _carrier("t0") == 1
    tap.close()


def test_the_mtu_is_read_and_set() -> None:
    tap = Tap.open("t0", 1, create=True)
    assert tap.mtu == 1500
    tap.set_mtu(9000)
    assert tap.mtu == 9000
    with pytest.raises(TapError, match="cannot be 70000"):
        tap.set_mtu(70000)
    tap.close()


def test_one_queue_pair_is_content_with_a_tap_without_multi_queue() -> None:
    _ip("tuntap add dev t0 mode tap vnet_hdr")
    tap = Tap.open("t0", 1)
    assert not tap.multi_queue
    tap.attach(0)
    tap.detach(0)
    assert tap.offloads() == GUEST
    tap.close()


@pytest.mark.parametrize(
    ("made", "pairs", "problem", "remedy"),
    [
        ("", 1, "there is no TAP 't0'", "ip tuntap add dev t0 mode tap multi_queue vnet_hdr, or .* create=on"),
        ("tuntap add dev t0 mode tap multi_queue", 1, "lacks the flag vnet_hdr", "ip tuntap del dev t0 mode tap"),
        ("tuntap add dev t0 mode tap vnet_hdr", 2, "lacks the flag multi_queue", "or give queue-pairs=1"),
        ("tuntap add dev t0 mode tun", 1, "is a TUN", "ip tuntap del dev t0 mode tun"),
        ("link add t0 type veth peer name t1", 1, "is a veth interface, expected a TAP", "choose another name"),
        ("", 257, "257 queues, Linux allows 1 to 256", "up to 256"),
        ("", 0, "0 queues, Linux allows 1 to 256", ""),
    ],
)
def test_an_unfit_tap_is_refused_with_a_remedy(made: str, pairs: int, problem: str, remedy: str) -> None:
    if made:
        _ip(made)
    with pytest.raises(TapError, match=problem) as error:
        Tap.open("t0", pairs)
    error.match(remedy)


@pytest.mark.parametrize("name", ["", "a" * 16, "é" * 8, "a/b", "a b", "..", "a%d", "a:b"])
def test_a_name_linux_refuses_is_refused(name: str) -> None:
    with pytest.raises(TapError, match="TAP name"):
        Tap.open(name, 1, create=True)


def test_a_busy_tap_names_its_holder() -> None:
    tap = Tap.open("t0", 2, create=True)
    with pytest.raises(TapError, match=rf"'t0' is busy: held by process {os.getpid()} \("):
        Tap.open("t0", 2)
    tap.close()


def test_a_tap_of_the_administrator_is_forbidden_to_others() -> None:
    if os.geteuid() != 0:
        pytest.skip("the namespace's only user is its root")
    _ip("tuntap add dev t0 mode tap multi_queue vnet_hdr user 0")
    os.seteuid(65534)
    try:
        with pytest.raises(TapError, match="no permission to use TAP 't0' as user 65534") as error:
            Tap.open("t0", 1)
        error.match("ip tuntap add dev t0 mode tap multi_queue vnet_hdr user 65534")
        with pytest.raises(TapError, match="no permission to use TAP 'new'"):
            Tap.open("new", 1, create=True)
    finally:
        os.seteuid(0)


def test_a_missing_clone_device_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ioctls, "CLONE_DEVICE", tmp_path / "tun")
    with pytest.raises(TapError, match=r"tun is missing .*modprobe tun"):
        Tap.open("t0", 1, create=True)


def _remake(name: str = "t0", flags: str = "multi_queue vnet_hdr") -> None:
    _ip(f"tuntap add dev {name} mode tap {flags}")


def test_a_tap_that_was_deleted_takes_what_is_asked_of_it() -> None:
    """As a guest does that reboots, resets its card or comes back, and does not know of it."""
    tap = Tap.open("t0", 2, create=True)
    tap.set_mtu(1400)
    tap.attach(0)
    assert tap.check()
    _ip("link del t0")
    tap.set_features(GUEST)
    assert tap.gone
    tap.detach(0)
    tap.attach(1)
    tap.set_carrier(up=False)
    tap.set_mtu(1300)
    assert (tap.check(), tap.up, tap.is_back, tap.mtu, tap.attached) == (False, False, False, 1300, {1})
    tap.close()


@pytest.mark.parametrize("notices", ["attach", "detach", "set_features", "set_carrier", "set_mtu", "check"])
def test_a_deleted_tap_is_an_error_to_nobody_who_is_the_first_to_notice(notices: str) -> None:
    tap = Tap.open("t0", 2, create=True)
    if notices == "detach":
        tap.attach(1)
    _ip("link del t0")
    calls = {
        "attach": lambda: tap.attach(1),
        "detach": lambda: tap.detach(1),
        "set_features": lambda: tap.set_features(0),
        "set_carrier": lambda: tap.set_carrier(up=False),
        "set_mtu": lambda: tap.set_mtu(1300),
        "check": tap.check,
    }
    calls[notices]()
    assert not tap.check()
    tap.close()


def test_a_tap_that_is_made_again_is_taken_up_as_it_is_wanted() -> None:
    tap = Tap.open("t0", 3, create=True)
    tap.attach(0)
    tap.set_mtu(1400)
    _ip("link del t0")
    tap.set_features(mask(Feature.GUEST_CSUM))
    tap.attach(2)
    assert not tap.is_back
    _remake()
    assert tap.is_back
    before = list(tap.fds)
    old = tap.take_up()
    assert (old, tap.gone, tap.attached, _queues("t0")) == (before, False, {0, 2}, (2, 1))
    assert (tap.mtu, ioctls.belongs_to_device(tap.fds[0])) == (1400, True)
    for fd in old:
        os.close(fd)
    tap.close()
    assert ioctls.interface_mtu("t0") == 1500


def test_a_tap_that_is_made_anew_between_two_looks_is_another_one() -> None:
    tap = Tap.open("t0", 2, create=True)
    _ip("link del t0")
    _remake()
    assert not tap.check()
    for fd in tap.take_up():
        os.close(fd)
    assert tap.check()
    tap.close()


def test_a_tap_that_cannot_be_taken_up_stays_gone() -> None:
    tap = Tap.open("t0", 2, create=True)
    tap.attach(1)
    _ip("link del t0")
    assert not tap.check()
    _remake(flags="vnet_hdr")
    with pytest.raises(TapError, match="lacks the flag multi_queue"):
        tap.take_up()
    assert (tap.gone, tap.attached) == (True, {1})
    tap.close()


def test_a_tap_that_has_moved_to_another_namespace_or_is_renamed_is_still_there() -> None:
    tap = Tap.open("t0", 2, create=True)
    _ip("link set t0 name t1")
    assert tap.check()
    _ip("netns add elsewhere")
    try:
        _ip("link set t1 netns elsewhere")
        assert tap.check()
        tap.set_features(GUEST)
    finally:
        tap.close()
        _ip("netns del elsewhere")


@pytest.mark.parametrize(("changed", "left"), [(None, 1500), (1200, 1200)])
def test_the_mtu_is_given_back_unless_somebody_else_has_set_it(changed: int | None, left: int) -> None:
    _remake()
    tap = Tap.open("t0", 1)
    tap.set_mtu(9000)
    tap.set_mtu(8000)
    if changed:
        _ip(f"link set t0 mtu {changed}")
    tap.close()
    assert ioctls.interface_mtu("t0") == left
