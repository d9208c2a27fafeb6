"""The one way mpnet binds a Unix socket's path: stale ones are replaced, live ones are not."""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpnet.errors import MpnetError

MAX_PATH_BYTES = 107
"""sun_path, less its closing zero."""

_BACKLOG = 64
_FIRST_HANDED_OVER = 3
"""SD_LISTEN_FDS_START"""


def bind_unix(path: str | Path, mode: int = 0o600, group: str = "") -> socket.socket:
    """Listen on a path, in place of what an ended process left there; or go on where systemd listened for us.

    Args:
        path: where; its folder must exist.
        mode: permission bits of the path; nobody has more from the first moment.
        group: the path's group, by name or number; this process's unless given.

    Returns:
        A listening stream socket, closed on exec; the caller closes it, best with ``release_unix``.

    Raises:
        MpnetError: the path is too long, in use, no socket, or its folder is missing or forbidden; the group is
            none, or not this user's.
    """
    path = Path(path)
    _check_path(path)
    gid = _group(group) if group else -1
    if handed_over := _take_handed_over(path):
        return handed_over
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the path the socket's own mode less the umask: nobody gets in before the chmod below.
        os.fchmod(sock.fileno(), 0o600 & mode)
        _bind(sock, path)
        with _bound(path) as itself:
            if group:
                _give(path, itself, gid, group)
            itself.chmod(mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(path, error) from None
    except MpnetError:
        sock.close()
        raise
    return sock


def release_unix(sock: socket.socket) -> None:
    """Close a listening socket and remove its path, unless another process listens there by now."""
    name = sock.getsockname() if sock.fileno() >= 0 else ""
    sock.close()
    if name and _is_stale(Path(name)):
        Path(name).unlink(missing_ok=True)


def _take_handed_over(path: Path) -> socket.socket | None:
    """Find the listening socket of a path among those that a service manager has opened (sd_listen_fds(3)).

    It keeps one of its own, so that who connects while this process is restarted waits instead of being refused.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for fd in range(_FIRST_HANDED_OVER, _FIRST_HANDED_OVER + int(count if count.isdigit() else 0)):
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        sock = socket.socket(fileno=os.dup(fd))
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family == socket.AF_UNIX and listens and sock.getsockname() == str(path):
            return sock
        sock.close()
    return None


def _check_path(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise MpnetError(
            f"the socket path {path} is {length} bytes long, but Linux takes {MAX_PATH_BYTES}",
            "choose a shorter path",
        )
    try:
        there = path.parent.is_dir()
    except OSError as error:
        raise _bind_error(path, error) from None
    if not there:
        raise MpnetError(f"the folder {path.parent} of the socket {path} is missing", f"mkdir -p {path.parent}")


def _group(name: str) -> int:
    try:
        return int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise MpnetError(f"there is no group {name!r}", f"as root: groupadd --system {name}") from None


@contextmanager
def _bound(path: Path) -> Iterator[Path]:
    """What was bound just now, by a name that stays its own: who owns the folder may put a link in its place.

    Root's rights would be given to whatever that leads to.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise MpnetError(
                f"the socket {path} was replaced by something else just now",
                f"choose a folder that only you can write to; {path.parent} is not",
            )
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _give(path: Path, itself: Path, gid: int, group: str) -> None:
    try:
        os.chown(itself, -1, gid)
    except PermissionError:
        path.unlink(missing_ok=True)
        raise MpnetError(
            f"user {os.geteuid()} may not give the socket {path} to the group {group!r}",
            f"be a member of it: SupplementaryGroups={group} in a systemd unit, or usermod -aG {group} USER",
        ) from None


def _bind(sock: socket.socket, path: Path) -> None:
    try:
        sock.bind(str(path))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _remove_stale(path)
        sock.bind(str(path))


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise MpnetError(f"{path} exists and is no socket", "remove it or choose another path")
    if not _is_stale(path):
        raise MpnetError(
            f"the socket {path} is in use by another process",
            f"see who with 'ss -xlp src {path}', or choose another path",
        )
    path.unlink()


def _is_stale(path: Path) -> bool:
    """Tell whether a path is a socket nobody has open.

    A datagram socket is refused where nobody is bound, and is of the wrong type where somebody is: unlike a
    stream it is never accepted, so a live server does not notice.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _bind_error(path: Path, error: OSError) -> MpnetError:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return MpnetError(
            f"no permission to bind the socket {path}: {error.strerror}",
            f"choose a folder you can write to, or run as the owner of {path.parent}",
        )
    if error.errno == errno.EADDRINUSE:
        return MpnetError(f"the socket {path} was taken by another process just now", "choose another path")
    return MpnetError(f"cannot bind the socket {path}: {error.strerror}")
