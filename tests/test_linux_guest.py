"""The throw-away Linux guest, proved on QEMU's own virtio-net device; and the arguments for attaching mpnet's."""

import ctypes
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

from mpnet.errors import ConfigError, MpnetError
from mpnet.guest import debian, parts
from mpnet.guest.cache import UNFINISHED, cache_directory
from mpnet.guest.lifeline import bound_to_us
from mpnet.guest.linux.agent import GuestError
from mpnet.guest.linux.guest import LinuxGuest, Setup
from mpnet.guest.linux.initramfs import load_order, loaded_later
from mpnet.guest.linux.libvirt import libvirt_xml
from mpnet.guest.linux.qemu import Machine, Nic, TapNic, VhostUserNic, attach_arguments
from tests.real import linux_guest as traffic
from tests.real import netns, vlan
from tests.real.asked import LINUX_GUEST, real

HOST = "10.77.0.1"
GUEST = "10.77.0.2"
HOST6 = "fd00:77::1"
GUEST6 = "fd00:77::2"
MAC = "52:54:00:77:00:02"


@pytest.fixture(scope="module")
def guest() -> Iterator[LinuxGuest]:
    nic = TapNic(interface="tap0", queue_pairs=2, mac=MAC)
    machine = Machine(accel="tcg", machine="pc", smp=2, slots=1, memory_mib=512)
    setup = Setup(addresses=[f"{GUEST}/24", f"{GUEST6}/64"])
    with (
        netns.network_namespace(),
        netns.tap("tap0", f"{HOST}/24", f"{HOST6}/64"),
        LinuxGuest(nic, machine, setup) as booted,
    ):
        yield booted


def test_agent_gives_output_and_status_apart(guest: LinuxGuest) -> None:
    done = guest.run("echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert guest.check(["printf", "%s", "a  b'c\n"]) == "a  b'c\n"
    assert guest.run("true").stdout == ""


def test_agent_carries_long_scripts_and_outputs(guest: LinuxGuest) -> None:
    text = "".join(f"line {number}\n" for number in range(3000))
    assert guest.check(f"cat <<'END'\n{text}END\n") == text


def test_agent_runs_commands_side_by_side(guest: LinuxGuest) -> None:
    guest.check("mkfifo /tmp/pipe")
    waiting = guest.spawn("cat /tmp/pipe")
    guest.check("echo through >/tmp/pipe; rm /tmp/pipe")
    assert waiting.wait(60).stdout == "through\n"


def test_agent_kills_a_command_with_its_children(guest: LinuxGuest) -> None:
    job = guest.spawn("sleep 1000 & sleep 1000")
    guest.check("until [ $(pidof sleep | wc -w) -ge 3 ]; do usleep 10000; done")  # process 1 has one as well
    job.kill()
    assert job.wait(60).returncode == 137
    guest.check("until [ $(pidof sleep | wc -w) -eq 1 ]; do usleep 10000; done")


def test_the_archive_has_what_the_c_library_loads_in_the_midst_of_a_run(guest: LinuxGuest) -> None:
    assert guest.run("ls /lib/*/libgcc_s.so.1 /usr/lib/*/libgcc_s.so.1 2>/dev/null").stdout != ""


def test_device_is_the_one_asked_for(guest: LinuxGuest) -> None:
    assert guest.check("cat /sys/class/net/eth0/address").strip() == MAC
    assert guest.check("ethtool -i eth0").startswith("driver: virtio_net\n")


def test_ping_over_ipv4_and_ipv6(guest: LinuxGuest) -> None:
    traffic.ping(guest, HOST)
    traffic.ping(guest, HOST6)
    traffic.ping(guest, HOST, size=1472)


@pytest.mark.parametrize("host", [HOST, HOST6])
@pytest.mark.parametrize("reverse", [False, True])
def test_iperf3_tcp(guest: LinuxGuest, host: str, reverse: bool) -> None:
    result = traffic.iperf3(guest, host, "16M", reverse=reverse)
    assert result.streams == 4
    assert result.sent >= 16 << 20
    assert result.received >= result.sent - result.streams * traffic.UNREAD_BYTES


def test_iperf3_udp(guest: LinuxGuest) -> None:
    assert traffic.iperf3(guest, HOST, "2M", udp=True).sent >= 2 << 20


def test_files_both_ways(guest: LinuxGuest) -> None:
    traffic.send_file(guest, HOST, bytes(range(256)) * 4096 * 8)
    traffic.receive_file(guest, HOST, 8 << 20)


def test_queues_count_and_are_set(guest: LinuxGuest) -> None:
    assert traffic.combined(guest) == (2, 2)
    before = traffic.ethtool_statistics(guest)
    for cpu in (0, 1):
        traffic.iperf3(guest, HOST, "4M", cpu=cpu)
    after = traffic.ethtool_statistics(guest)
    for queue in (0, 1):
        assert after[f"tx_queue_{queue}_packets"] > before[f"tx_queue_{queue}_packets"]
    traffic.set_combined(guest, 1)
    assert traffic.combined(guest) == (2, 1)
    traffic.ping(guest, HOST)
    traffic.set_combined(guest, 2)
    traffic.ping(guest, HOST)


def test_vlan(guest: LinuxGuest) -> None:
    with vlan.Station("tap0", 7, "10.77.7.1") as station:
        guest.check("ip link add link eth0 name eth0.7 type vlan id 7 && ip link set eth0.7 up")
        guest.check("ip address add 10.77.7.2/24 dev eth0.7")
        traffic.ping(guest, "10.77.7.1", count=3)
        guest.check("ip link del eth0.7")
    assert station.echoes == 3


def test_driver_is_bound_anew(guest: LinuxGuest) -> None:
    traffic.rebind(guest)
    traffic.ping(guest, HOST)


def test_added_memory_is_used(guest: LinuxGuest) -> None:
    total = "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"
    before = int(guest.check(total))
    guest.add_memory(256)
    guest.check(f"until [ $({total}) -gt {before + 200_000} ]; do usleep 50000; done")
    traffic.ping(guest, HOST)


def test_errors_tell_command_and_reason(guest: LinuxGuest) -> None:
    with pytest.raises(GuestError, match="'false' exited with 1"):
        guest.check("false")
    with pytest.raises(GuestError, match=r"'sleep 1000' did not end in 0\.1 s"):
        guest.run("sleep 1000", timeout=0.1)


def test_reboot_brings_the_agent_back_and_ends_jobs(guest: LinuxGuest) -> None:
    job = guest.spawn("sleep 1000")
    guest.check("touch /tmp/before")
    guest.reboot()
    with pytest.raises(GuestError, match="rebooted"):
        job.wait(1)
    assert guest.run("test -e /tmp/before").returncode == 1
    traffic.ping(guest, HOST)


@real(*LINUX_GUEST)
def test_a_guest_that_cannot_start_tells_what_qemu_said() -> None:
    nic = TapNic(interface="no-such-tap0")
    with (
        netns.network_namespace(),
        pytest.raises(GuestError, match=r"(?s)QEMU ended before.*unsupported machine type"),
        LinuxGuest(nic, Machine(accel="tcg", machine="no-such-machine"), Setup()),
    ):
        pass


@contextmanager
def children_of_the_dead() -> Iterator[None]:
    """Become the parent of grandchildren whose parent dies, so that they can be waited for."""
    set_child_subreaper = 36
    libc = ctypes.CDLL(None)
    libc.prctl(set_child_subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


def wait_until_it_runs(pid: int, program: str) -> None:
    """Wait for a process to have become the program that it was started for."""
    while program not in str(Path(f"/proc/{pid}/exe").readlink()):
        os.sched_yield()


@real(*LINUX_GUEST)
def test_qemu_ends_with_a_parent_that_is_killed() -> None:
    script = (
        "import sys, mpnet.guest.linux.guest as g, mpnet.guest.linux.qemu as q\n"
        "guest = g.LinuxGuest(q.VhostUserNic(socket='/nowhere'), q.Machine(accel='tcg'), g.Setup())\n"
        "guest.start()\nprint(guest.pid, flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    with children_of_the_dead(), subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as parent:
        assert parent.stdout is not None
        qemu = int(parent.stdout.readline())
        wait_until_it_runs(qemu, "qemu-system")
        parent.kill()
        parent.wait()
        _, status = os.waitpid(qemu, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@real("setpriv")
def test_a_program_is_not_started_for_a_parent_that_is_gone_already(tmp_path: Path) -> None:
    started = tmp_path / "started"
    setpriv, *options, _ = bound_to_us()
    another_parent = str(os.getppid())
    ended = subprocess.run([setpriv, *options, another_parent, "touch", str(started)], check=False)
    assert ended.returncode == 1
    assert not started.exists()


@real(*LINUX_GUEST)
def test_stop_ends_a_guest_that_waits_for_its_back_end() -> None:
    guest = LinuxGuest(VhostUserNic(socket="/nowhere"), Machine(accel="tcg"), Setup())
    guest.start()
    pid = guest.pid
    guest.stop()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(GuestError, match="not started"):
        guest.run("true")


@pytest.fixture
@real("busybox")
def kernel_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package with the layout of a kernel's, served instead of the mirror's; gives the folders it went to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        "Package: linux-image-6.1\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"
    )
    (source / "boot").mkdir()
    (source / "boot/vmlinuz-6.1.0").write_bytes(b"kernel")
    (source / "lib/modules/6.1.0/kernel").mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--build", source, tmp_path / "kernel.deb"], check=True, capture_output=True)
    fetched: list[Path] = []

    def fetch(folder: Path, tree: Path) -> str:
        fetched.append(folder)
        subprocess.run(["dpkg-deb", "-x", tmp_path / "kernel.deb", tree], check=True)
        return "linux-image-6.1.0"

    monkeypatch.setattr(debian, "_fetch", fetch)
    return fetched


def test_kernel_is_fetched_once_by_callers_at_once(kernel_package: list[Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        kernels = list(pool.map(lambda _: debian.kernel(), range(4)))
    assert len(kernel_package) == 1
    assert {kernel.image.read_bytes() for kernel in kernels} == {b"kernel"}
    assert (kernels[0].modules / "modules.dep").exists()


def test_a_cached_kernel_with_a_hole_is_fetched_again(kernel_package: list[Path]) -> None:
    debian.kernel().image.write_bytes(b"ker")
    (cache_directory() / f"{UNFINISHED}left").mkdir()
    assert debian.kernel().image.read_bytes() == b"kernel"
    assert len(kernel_package) == 2
    assert not list(cache_directory().glob(f"{UNFINISHED}*"))


@real("iperf3")
def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda *_, **__: None)
    with pytest.raises(MpnetError, match="iperf3 is not on this machine: apt-get install iperf3"):
        debian.program("iperf3")
    assert debian.missing_packages(["linux.uml", "tmux"]) == ["user-mode-linux", "tmux"]
    with pytest.raises(MpnetError, match="no apt-get"):
        debian.install(["no-such-package"])


def test_attach_arguments_for_a_user_with_kvm() -> None:
    nic = VhostUserNic(socket="/run/mpnet/a,b.sock", queue_pairs=4, mac=MAC, mtu=9000, rx_queue_size=512)
    assert attach_arguments(nic, Machine(memory_mib=2048, slots=2)) == [
        *("-accel", "kvm", "-machine", "q35,memory-backend=mem", "-m", "2048M,slots=2,maxmem=8192M"),
        *("-object", "memory-backend-memfd,id=mem,size=2048M,share=on"),
        *("-chardev", "socket,id=net0-socket,path=/run/mpnet/a,,b.sock,reconnect-ms=1000"),
        *("-netdev", "vhost-user,id=net0,chardev=net0-socket,queues=4"),
        "-device",
        f"virtio-net-pci,netdev=net0,mac={MAC},mq=on,vectors=10,romfile=,ctrl_guest_offloads=off,host_mtu=9000,"
        "rx_queue_size=512",
    ]


def test_attach_arguments_under_tcg_keep_msi_x_off() -> None:
    machine = Machine(accel="tcg", backend="file", qemu=(7, 2))
    arguments = attach_arguments(VhostUserNic(socket="s", reconnect=0), machine)
    assert arguments[:2] == ["-accel", "tcg,thread=multi"]
    assert "memory-backend-file,id=mem,size=1024M,share=on,mem-path=/dev/shm" in arguments
    assert "socket,id=net0-socket,path=s" in arguments
    assert arguments[-1] == "virtio-net-pci,netdev=net0,vectors=0,romfile=,ctrl_guest_offloads=off"


@pytest.mark.parametrize("wrong", [{"rx_queue_size": 128}, {"tx_queue_size": 2048}, {"rx_queue_size": 300}])
def test_ring_sizes_qemu_refuses_are_refused_first(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="powers of two from 256 to 1024"):
        Nic(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"queue_pairs": 0}, {"mac": "52:54"}])
def test_devices_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Nic(**wrong)  # type: ignore[arg-type]


def test_libvirt_xml_attaches_with_shared_memory() -> None:
    nic = VhostUserNic(socket="/run/a&b.sock", queue_pairs=2, mac=MAC, mtu=9000, rx_queue_size=1024)
    domain = ET.fromstring(libvirt_xml(nic, Machine()))  # noqa: S314 (our own text)
    access = domain.find("memoryBacking/access")
    assert access is not None
    assert access.get("mode") == "shared"
    interface = domain.find("devices/interface[@type='vhostuser']")
    assert interface is not None
    found = {child.tag: child.attrib for child in interface}
    assert found == {
        "mac": {"address": MAC},
        "source": {"type": "unix", "path": "/run/a&b.sock", "mode": "client"},
        "model": {"type": "virtio"},
        "driver": {"queues": "2", "rx_queue_size": "1024"},
    }, "and no MTU, with which libvirt does not start the guest"


def test_what_the_c_library_loads_later_is_asked_for_by_its_package(tmp_path: Path) -> None:
    libc = tmp_path / "libc.so.6"
    with pytest.raises(MpnetError, match=r"libgcc_s\.so\.1 not beside .*: apt-get install libgcc-s1"):
        loaded_later([str(libc)])
    (tmp_path / "libgcc_s.so.1").touch()
    assert loaded_later([str(tmp_path / "ld.so"), str(libc)]) == [str(tmp_path / "libgcc_s.so.1")]


def test_modules_come_after_what_they_depend_on() -> None:
    modules_dep = "net/a-b.ko.xz: net/c.ko.xz net/d.ko.xz\nnet/c.ko.xz: net/d.ko.xz\nnet/d.ko.xz:\nnet/e.ko:\n"
    assert load_order(modules_dep, ["a_b", "built_in", "c"]) == ["net/d.ko.xz", "net/c.ko.xz", "net/a-b.ko.xz"]
