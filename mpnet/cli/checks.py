"""What mpnet needs from the machine, checked one by one without changing anything."""

import errno
import mmap
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mpnet.cli import packages
from mpnet.config.device import DeviceConfig
from mpnet.control.files import needed
from mpnet.errors import MpnetError
from mpnet.guest.debian import missing_packages
from mpnet.jit import cache
from mpnet.segment import shm
from mpnet.segment.layout import MAX_QUEUE_PAIRS, segment_bytes
from mpnet.segment.segment import header_of, is_served
from mpnet.segment.segment import names as segment_names
from mpnet.tap import kernel

_TUN = Path("/dev/net/tun")
_SHM = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory
_CAP_NET_ADMIN = 12
_PROBE_SECONDS = 10
_MIB = 1024 * 1024


class Outcome(Enum):
    """How a check ended."""

    OK = "ok"
    MISSING = "missing"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class Finding:
    """The end of one check.

    Attributes:
        name: what was looked at.
        outcome: MISSING is needed to serve a device; OPTIONAL is missing for one use.
        detail: what was found.
        remedy: the command or change that mends it; empty where nothing is to mend.
    """

    name: str
    outcome: Outcome
    detail: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]


def check_packages() -> Iterator[Finding]:
    """Every Python package mpnet depends on is installed."""
    missing = packages.missing()
    if missing:
        names = " ".join(map(packages.name_of, missing))
        remedy = packages.install_command(missing)
        yield Finding("python packages", Outcome.MISSING, f"not installed: {names}", remedy)
    else:
        yield Finding("python packages", Outcome.OK, "all installed")


def check_tun() -> Iterator[Finding]:
    """/dev/net/tun can be opened."""
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = f"as root: modprobe tun && mkdir -p {_TUN.parent} && mknod -m 666 {_TUN} c 10 200"
        yield Finding(str(_TUN), Outcome.MISSING, "is not there", remedy)
    except OSError as error:
        remedy = "as root: modprobe tun" if error.errno == errno.ENODEV else f"as root: chmod 666 {_TUN}"
        yield Finding(str(_TUN), Outcome.MISSING, f"cannot be opened: {error.strerror}", remedy)
    else:
        yield Finding(str(_TUN), Outcome.OK, "can be opened")


def check_privilege() -> Iterator[Finding]:
    """TAPs can be made: here, or in a user and network namespace of one's own."""
    name = "right to make TAPs"
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    if capabilities and int(capabilities[1], 16) >> _CAP_NET_ADMIN & 1:
        yield Finding(name, Outcome.OK, "CAP_NET_ADMIN")
        return
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--user", "--map-root-user", "--net", "true"]
    if (
        unshare
        and subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_SECONDS).returncode == 0
    ):
        remedy = (
            "for a TAP outside a namespace, as root: ip tuntap add tap0 mode tap multi_queue vnet_hdr user $USER"
        )
        yield Finding(name, Outcome.OK, "user namespaces, so no interface of the machine itself", remedy)
        return
    yield Finding(
        name,
        Outcome.MISSING,
        "neither CAP_NET_ADMIN nor user namespaces",
        "run as root, or as root: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1",
    )


def check_shared_memory() -> Iterator[Finding]:
    """POSIX shared memory has room for a device of the largest size."""
    needed = segment_bytes(MAX_QUEUE_PAIRS)
    if not os.access(_SHM, os.W_OK):
        remedy = f"as root: mount -t tmpfs -o mode=1777 tmpfs {_SHM}"
        yield Finding(str(_SHM), Outcome.MISSING, "is missing or cannot be written to", remedy)
        return
    status = os.statvfs(_SHM)
    free = status.f_bavail * status.f_frsize
    detail = f"{free // _MIB} MiB free, of which a device takes {-(-needed // _MIB)} or fewer"
    if free < needed:
        yield Finding(str(_SHM), Outcome.MISSING, detail, f"as root: mount -o remount,size=512M {_SHM}")
    else:
        yield Finding(str(_SHM), Outcome.OK, detail)


def check_limits() -> Iterator[Finding]:
    """The process may open the files that a device of the largest size needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = needed([DeviceConfig(id="largest", backend="null", socket="-", queue_pairs=MAX_QUEUE_PAIRS)])
    allowed = "any number" if hard == resource.RLIM_INFINITY else hard
    detail = f"{allowed} allowed, {least} needed for {MAX_QUEUE_PAIRS} queue pairs"
    if 0 <= hard < least:
        yield Finding("open files", Outcome.MISSING, detail, f"as root: ulimit -Hn {least}")
    else:
        yield Finding("open files", Outcome.OK, detail)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft // 1024} KiB"
    yield Finding("locked memory", Outcome.OK, f"{locked}; mpnet locks none")


def check_compiler() -> Iterator[Finding]:
    """Compiled code may be run."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        yield Finding(
            "executable memory",
            Outcome.MISSING,
            f"refused: {error.strerror}",
            "remove MemoryDenyWriteExecute from the systemd unit, or set MPNET_JIT=0 and be slow",
        )
    else:
        yield Finding("executable memory", Outcome.OK, "allowed")


def check_cache() -> Iterator[Finding]:
    """Compiled code may be kept between runs."""
    name = "compiler's cache"
    remedy = "set XDG_CACHE_HOME to a folder that is yours alone: without a cache every start compiles anew"
    if whole := cache.find_whole():
        yield Finding(name, Outcome.OK, f"the data path is compiled, in {whole}")
        return
    folders = [cache.folder_below(base) for base in cache.bases()[:-1]]
    if not folders:
        yield Finding(name, Outcome.MISSING, "this user has no home", remedy)
        return
    folder = folders[0]
    existing = next(each for each in (folder, *folder.parents) if os.access(each, os.F_OK))
    reason = cache.objection(folder) if existing == folder else ""
    if not reason and os.access(existing, os.W_OK | os.X_OK):
        yield Finding(name, Outcome.OK, f"{folder.parent} can be written to; see 'mpnet compile'")
    else:
        yield Finding(name, Outcome.MISSING, reason or f"{folder.parent} cannot be written to", remedy)


def check_guests() -> Iterator[Finding]:
    """What throw-away guests and fast ones are made of."""
    packages = missing_packages()
    if packages:
        remedy = f"as root: apt-get install --no-install-recommends {' '.join(packages)}"
        yield Finding("throw-away guests", Outcome.OPTIONAL, f"missing: {' '.join(packages)}", remedy)
    else:
        yield Finding("throw-away guests", Outcome.OK, "QEMU and tools are installed")
    kvm = Path("/dev/kvm")
    if os.access(kvm, os.R_OK | os.W_OK):
        yield Finding(str(kvm), Outcome.OK, "can be opened")
    else:
        remedy = "as root: modprobe kvm_intel || modprobe kvm_amd; usermod -aG kvm $USER"
        yield Finding(
            str(kvm), Outcome.OPTIONAL, "is not there or not yours: guests are emulated, slowly", remedy
        )
    pages = re.search(r"^HugePages_Free:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    count = int(pages[1]) if pages else 0
    if count:
        yield Finding("huge pages", Outcome.OK, f"{count} free")
    else:
        yield Finding(
            "huge pages", Outcome.OPTIONAL, "none free; DPDK wants some", "as root: sysctl vm.nr_hugepages=512"
        )


def check_leftovers() -> Iterator[Finding]:
    """No shared memory is left of a control process that died; the next start with the device's id removes it."""
    found = False
    for name in segment_names():
        try:
            header = header_of(name)
        except shm.ForeignError as error:
            yield Finding("leftovers", Outcome.OPTIONAL, f"not looked at: {error.problem}", error.remedy)
            continue
        except MpnetError as error:
            yield Finding("leftovers", Outcome.OPTIONAL, f"device {name!r}: {error.problem}", error.remedy)
            continue
        if not is_served(header):
            found = True
            detail = f"device {name!r} of the ended process {int(header.control_pid)} is still there"
            remedy = "the next 'mpnet run' with that device ends its workers and removes it"
            yield Finding("leftovers", Outcome.OPTIONAL, detail, remedy)
    if not found:
        yield Finding("leftovers", Outcome.OK, "none")


def check_kernel() -> Iterator[Finding]:
    """The kernel is none that is known to harm what it is handed."""
    fault = kernel.udp_gso_fault()
    if fault:
        yield Finding("kernel", Outcome.OPTIONAL, fault, kernel.REMEDY)
    else:
        yield Finding("kernel", Outcome.OK, f"Linux {os.uname().release}")


CHECKS: tuple[Check, ...] = (
    check_kernel,
    check_packages,
    check_tun,
    check_privilege,
    check_shared_memory,
    check_limits,
    check_compiler,
    check_cache,
    check_guests,
    check_leftovers,
)
