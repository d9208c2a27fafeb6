"""Which processes hold queues of a TAP."""

from pathlib import Path

from mpnet.foreign import readable

_PROC = Path("/proc")


def holders(name: str) -> list[str]:
    """Name the processes with a queue of TAP ``name`` open, as ``4711 (qemu-system-x86)``.

    Only those this user may look into are seen; a TAP of the same name in another network namespace counts too.
    """
    found = []
    for process in sorted(_PROC.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if _holds(process, name):
                found.append(f"{process.name} ({_command(process)})")
        except OSError:
            # It has ended, or belongs to somebody else.
            continue
    return found


def _command(process: Path) -> str:
    return readable((process / "comm").read_bytes().rstrip(b"\n"))


def _holds(process: Path, name: str) -> bool:
    return any(
        (link := process / "fd" / info.name).is_symlink()
        and str(link.readlink()) == "/dev/net/tun"
        and f"iff:\t{name}\n".encode() in info.read_bytes()
        for info in (process / "fdinfo").iterdir()
    )
