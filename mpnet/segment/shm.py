"""POSIX shared memory that may be mapped: one's own, of the size that is expected, and there to the last page.

In ``/dev/shm`` anybody makes files, under any name that is free. One that is cut short while it is mapped ends by
SIGBUS whoever reads it, and so does a page for which there is no memory. So all of mpnet's is opened here, where
a descriptor is looked at before it is mapped, and made here, where a page is reserved before it is touched.
"""

import os
import pwd
import stat
from pathlib import Path

import posix_ipc

from mpnet.errors import MpnetError

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux shows POSIX shared memory
MODE = 0o600


class MissingError(MpnetError):
    """There is no shared memory of that name."""


class ForeignError(MpnetError):
    """It belongs to somebody else, or others may write to it: it is not to be mapped."""


def create(name: str, size: int, reserve: int | None = None) -> int:
    """Make shared memory of ``size`` zero bytes, for this user alone; returns its descriptor, the caller's.

    Args:
        name: of its file.
        size: bytes.
        reserve: bytes from its beginning that are to be touched at once; all of them unless given.

    Raises:
        FileExistsError: the name is taken.
        OSError: there is no memory for it.
    """
    try:
        shm = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, mode=MODE, size=size)
    except posix_ipc.ExistentialError:
        raise FileExistsError(f"shared memory /{name} exists already") from None
    except posix_ipc.PermissionsError as error:
        raise PermissionError(str(error)) from None
    try:
        os.fchmod(shm.fd, MODE)  # whatever the umask took away
        os.posix_fallocate(shm.fd, 0, size if reserve is None else reserve)
    except OSError:
        os.close(shm.fd)
        unlink(name)
        raise
    return int(shm.fd)


def open_one(name: str, *, owner: int | None = None, read_only: bool = False) -> int:
    """Open shared memory by name; returns its descriptor, the caller's, which ``check`` has passed.

    Args:
        name: of its file.
        owner: the user whose it must be; this process's unless given.
        read_only: it shall only be read.

    Raises:
        MissingError: there is none.
        ForeignError: it is somebody else's.
        MpnetError: what has this name is no shared memory.
    """
    fd = _open(name, read_only=read_only)
    try:
        check(fd, name, os.geteuid() if owner is None else owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(name: str, *, read_only: bool) -> int:
    # As shm_open does, which cannot be told not to wait for the other end of a pipe.
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(FOLDER / name, flags)
    except FileNotFoundError:
        raise MissingError(f"there is no shared memory /{name}") from None
    except PermissionError:
        raise _foreign(name, _status(name)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MpnetError(f"{FOLDER / name} is no shared memory: {reason}", f"rm -r {FOLDER / name}") from None


def check(fd: int, name: str, owner: int | None) -> None:
    """Refuse what is no shared memory of mpnet's making, by its descriptor.

    Args:
        fd: open.
        name: what an error calls it.
        owner: the user whose it must be; None where the descriptor itself came from control.

    Raises:
        ForeignError: it is somebody else's, or its mode lets others in.
        MpnetError: it is no plain file.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise MpnetError(f"{FOLDER / name} is no shared memory but a special file", f"rm {FOLDER / name}")
    if (owner is not None and status.st_uid != owner) or stat.S_IMODE(status.st_mode) != MODE:
        raise _foreign(name, status)


def unlink(name: str) -> None:
    """Remove a name, if it is there.

    Raises:
        ForeignError: it is somebody else's.
    """
    try:
        posix_ipc.unlink_shared_memory(f"/{name}")
    except posix_ipc.ExistentialError:
        return
    except posix_ipc.PermissionsError:
        raise _foreign(name, _status(name)) from None


def identity(name: str) -> int | None:
    """Tell one file of a name from the next; None where there is none."""
    status = _status(name)
    return status.st_ino if status else None


def owner(name: str) -> int | None:
    """The user whose a file is; None where there is none."""
    status = _status(name)
    return status.st_uid if status else None


def exists(name: str) -> bool:
    """Whether a name is taken, by whatever it may be."""
    return os.path.lexists(FOLDER / name)


def _status(name: str) -> os.stat_result | None:
    try:
        return (FOLDER / name).lstat()
    except FileNotFoundError:
        return None


def _foreign(name: str, status: os.stat_result | None) -> ForeignError:
    whose = f"belongs to {_user(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}" if status else "is gone"
    return ForeignError(
        f"{FOLDER / name} {whose}, expected {_user(os.geteuid())}, mode {MODE:04o}",
        f"run the command as the user who runs 'mpnet run'; if no mpnet made it: rm {FOLDER / name}",
    )


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
