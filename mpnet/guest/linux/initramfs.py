"""The guest's whole user land: busybox, the agent, traffic tools and the kernel modules they need."""

import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.cache import UNFINISHED, cache_lock

MODULES = ("virtio_pci", "virtio_mmio", "virtio_net", "virtio_console", "8021q", "pktgen", "tun", "bridge")
"""Modules in the archive, with all they depend on; init.sh loads what every guest needs, tests the rest."""

TOOLS = ("iperf3", "ethtool", "perl")
"""Programs of the machine's own that go into the guest, with their shared libraries; perl without its modules."""

# pthread_cancel and backtraces unwind with it; a program that has not linked it aborts where it is not there.
_LOADED_BY_LIBC = ("libgcc_s.so.1",)


def build(kernel: debian.Kernel) -> Path:
    """Give the archive for a kernel, built once for each content.

    Returns:
        The path of an uncompressed `newc` cpio archive in the user's cache.

    Raises:
        MpnetError: a program, module or library is missing, or the archive could not be written.
    """
    contents = dict(_contents(kernel))
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    with cache_lock() as cache:
        archive = cache / f"initramfs-{digest.hexdigest()[:32]}.cpio"
        if not _is_whole(archive):
            _write(archive, contents)
    return archive


def load_order(modules_dep: str, names: Iterable[str]) -> list[str]:
    """Order module files so that each comes after all it depends on.

    Args:
        modules_dep: the text of modules.dep: a line `FILE: FILE ...` for each module.
        names: modules wanted, as `lsmod` spells them; those the kernel has built in are absent from
            modules.dep and left out.

    Returns:
        Paths relative to the folder of modules.dep, each once.
    """
    depends = {}
    for line in modules_dep.splitlines():
        file, _, rest = line.partition(":")
        depends[file] = rest.split()
    files = {_module_name(file): file for file in depends}
    order: dict[str, None] = {}

    def visit(file: str) -> None:
        for needed in depends[file]:
            if needed not in order:
                visit(needed)
        order[file] = None

    for name in names:
        if name in files:
            visit(files[name])
    return list(order)


def _module_name(file: str) -> str:
    return Path(file).name.split(".ko")[0].replace("-", "_")


def _contents(kernel: debian.Kernel) -> Iterator[tuple[str, bytes]]:
    """Give every file of the archive: its path without the leading slash, and its bytes."""
    scripts = resources.files("mpnet.guest.linux")
    yield "init", (scripts / "init.sh").read_bytes()
    for script in ("agent.sh", "network.sh"):
        yield script, (scripts / script).read_bytes()
    yield "bin/busybox", debian.program("busybox").read_bytes()
    yield from _modules(kernel)
    tools = [debian.program(tool) for tool in TOOLS]
    for tool in tools:
        yield f"usr/bin/{tool.name}", tool.read_bytes()
    for library in _libraries(tools):
        yield library.lstrip("/"), Path(library).read_bytes()


def _modules(kernel: debian.Kernel) -> Iterator[tuple[str, bytes]]:
    """Give MODULES, unpacked, with a modules.dep that names them alone, for busybox modprobe."""
    modules_dep = (kernel.modules / "modules.dep").read_text()
    files = load_order(modules_dep, MODULES)
    root = f"lib/modules/{kernel.release}"
    for file in files:
        content = (kernel.modules / file).read_bytes()
        yield f"{root}/{file.removesuffix('.xz')}", lzma.decompress(content) if file.endswith(".xz") else content
    lines = (line for line in modules_dep.splitlines() if line.partition(":")[0] in files)
    yield f"{root}/modules.dep", "".join(line.replace(".ko.xz", ".ko") + "\n" for line in lines).encode()


def _libraries(programs: Sequence[Path]) -> list[str]:
    """Name the shared libraries, the dynamic loader among them, that programs load.

    Raises:
        MpnetError: one is missing.
    """
    listing = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False)
    if listing.returncode != 0 or "not found" in listing.stdout:
        names = " ".join(program.name for program in programs)
        raise MpnetError(
            f"shared libraries of {names} are missing: {(listing.stderr or listing.stdout).strip()}",
            f"apt-get install --reinstall {names}",
        )
    found = set(re.findall(r"(/\S+) \(0x", listing.stdout))
    return sorted({*found, *loaded_later(found)})


def loaded_later(libraries: Iterable[str]) -> list[str]:
    """Name what the C library itself loads in the midst of a run, which no listing has."""
    libc = next(Path(library) for library in libraries if Path(library).name.startswith("libc.so"))
    later = [libc.with_name(name) for name in _LOADED_BY_LIBC]
    if absent := [path.name for path in later if not path.exists()]:
        raise MpnetError(f"{' '.join(absent)} not beside {libc}", "apt-get install libgcc-s1")
    return list(map(str, later))


def _is_whole(archive: Path) -> bool:
    """Whether an archive is there to its end, where cpio puts a member of this name."""
    return archive.exists() and b"TRAILER!!!" in archive.read_bytes()[-1024:]


def _write(archive: Path, contents: dict[str, bytes]) -> None:
    """Write the archive under its name only once it is complete."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=archive.parent) as temporary:
        root = Path(temporary) / "root"
        # The kernel opens /dev/console from its built-in archive, whose folder this must not take away.
        for folder in ("dev", "proc", "sys"):
            (root / folder).mkdir(parents=True)
        for name, content in contents.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        packed = subprocess.run(
            [debian.program("busybox"), "cpio", "-o", "-H", "newc", "-R", "0:0"],
            input=names.encode(),
            cwd=root,
            capture_output=True,
            check=False,
        )
        if packed.returncode != 0:
            raise MpnetError(f"the guest's archive could not be packed: {packed.stderr.decode().strip()}")
        whole = Path(temporary) / "whole"
        whole.write_bytes(packed.stdout)
        shutil.move(whole, archive)
