"""Making a device's segment where shared memory is short, and mapping nobody else's."""

import errno
import os
import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from types import ModuleType

import posix_ipc
import pytest

from mpnet.errors import MpnetError
from mpnet.segment import capture, layout, shm
from mpnet.segment.attachments import Attachments
from mpnet.segment.capture import MIN_LANE_BYTES, Capture
from mpnet.segment.segment import PREFIX, Segment, header_of, identity, names
from mpnet.segment.shm import ForeignError, MissingError
from mpnet.segment.trace import Kind
from tests.squatting import KINDS, STRANGER, clear, squat


def test_all_of_it_is_there_before_a_worker_writes_to_it() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 2)
    try:
        shown = Path(f"/dev/shm/{PREFIX}{name}")  # noqa: S108 - where Linux shows POSIX shared memory
        assert 512 * shown.stat().st_blocks >= layout.segment_bytes(2)
    finally:
        made.unlink()


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [(os, "posix_fallocate", errno.ENOSPC), (posix_ipc, "SharedMemory", errno.EROFS)],
)
def test_no_memory_is_an_error_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, function, refuse)
    name = f"test-{uuid.uuid4().hex[:12]}"
    with pytest.raises(MpnetError, match=rf"no \d+ bytes .*'{name}'.*: {os.strerror(number)}: make room"):
        Segment.create(name, 1)
    assert identity(name) is None


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_mpnet_made_for_this_user_is_mapped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    path = squat(name, kind)
    monkeypatch.setattr("mpnet.segment.segment.mmap.mmap", _never)
    try:
        with pytest.raises(MpnetError, match=r"expected|is no shared memory"):
            Segment.attach(name)
        with pytest.raises(MpnetError, match=r"expected|is no shared memory"):
            header_of(name)
    finally:
        clear(path)


def _never(*_: object) -> None:
    raise AssertionError("it was mapped")


def test_a_segment_under_another_devices_name_is_refused() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 1)
    other = shm.FOLDER / f"{PREFIX}{name}-other"
    try:
        other.hardlink_to(shm.FOLDER / f"{PREFIX}{name}")
        with pytest.raises(MpnetError, match=f"is the shared memory of device '{name}'"):
            Segment.attach(f"{name}-other")
    finally:
        made.unlink()
        other.unlink()


def test_a_descriptor_that_control_passed_on_is_mapped_whoever_asks() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 1)
    try:
        os.fchown(made.fd, STRANGER, STRANGER)
        made.rings[1].packets = 7
        assert Segment.from_fd(made.fd, owner=None).rings[1].packets == 7
        with pytest.raises(ForeignError, match=rf"user {STRANGER}, mode 0600, expected user root"):
            Segment.from_fd(made.fd, owner=os.geteuid())
        os.fchmod(made.fd, 0o660)
        with pytest.raises(ForeignError, match="mode 0660"):
            Segment.from_fd(made.fd, owner=None)
    finally:
        made.unlink()


def test_the_mode_is_not_left_to_the_umask() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    before = os.umask(0o777)
    try:
        made = Segment.create(name, 1)
    finally:
        os.umask(before)
    mode = stat.S_IMODE(os.fstat(made.fd).st_mode)
    made.unlink()
    assert mode == shm.MODE


def test_files_that_no_device_can_be_named_like_are_no_devices() -> None:
    odd = [shm.FOLDER / f"{PREFIX}{name}" for name in ("", "-x", "a b", "1", "a\udcff", "x" * 64)]
    for path in odd:
        path.touch()
    try:
        assert not {path.name.removeprefix(PREFIX) for path in odd} & set(names())
    finally:
        for path in odd:
            path.unlink()


def test_another_users_segment_is_copied_and_its_end_ends_nobody() -> None:
    """Root may read it; mapped, a file that is cut short would end the reader by SIGBUS."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 2)
    attachments = Attachments([name])
    try:
        os.fchown(made.fd, STRANGER, STRANGER)
        made.rings[3].packets = 5
        made.traces[-1].record(Kind.SESSION_OPENED, -1, 42)
        (found,) = attachments.current().values()
        assert (found.name, found.queue_pairs, found.rings[3].packets) == (name, 2, 5)
        made.rings[3].packets = 6
        assert attachments.current() == {name: found}
        assert found.rings[3].packets == 6
        assert found.traces[-1].read()[0][0].values[0] == 42
        os.ftruncate(made.fd, layout.PAGE)
        assert attachments.current() == {}
        assert "was cut short" in str(attachments.refused[name])
    finally:
        made.unlink()


def test_a_reader_without_rights_is_told_so() -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 1)
    try:
        os.seteuid(STRANGER)
        try:
            with pytest.raises(
                ForeignError, match=rf"{name} belongs to user root, mode 0600, expected user {STRANGER}"
            ):
                Attachments([name]).require()
            with pytest.raises(ForeignError, match="belongs to user root"):
                Attachments().require()
        finally:
            os.seteuid(0)
        with pytest.raises(MissingError, match=r"no shared memory /mpnet\.test-none"):
            Attachments([name, "test-none"]).require()
        Attachments([name]).require()
    finally:
        made.unlink()


CAPTURE = """
from mpnet.segment.capture import Capture, MIN_LANE_BYTES
Capture.create("full", 1, MIN_LANE_BYTES, 64)
"""
GUEST = """
from mpnet.guest.memory import BASE, GuestMemory
GuestMemory([1 << 20], "shm").write(BASE, bytes(1 << 20))
"""


@pytest.mark.parametrize("touched", [CAPTURE, GUEST])
def test_a_full_shm_is_an_error_and_no_signal(touched: str) -> None:
    """In a child process: a page that is not reserved before it is touched ends it by SIGBUS."""
    lines = touched.strip().splitlines()
    script = f"{lines[0]}\nfrom mpnet.errors import MpnetError\n"
    script += f"try:\n    {lines[1]}\nexcept MpnetError as error:\n    print(error)\n"
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 64k /dev/zero >/dev/shm/full && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", script]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert re.match(r"no \d+ bytes of shared memory.*: No space left on device: ", outcome.stdout)


def test_a_capture_is_mapped_only_where_it_is_the_users_who_runs_control() -> None:
    made, fd = Capture.create("test-capture-owner", 1, MIN_LANE_BYTES, 64)
    try:
        os.fchown(fd, STRANGER, STRANGER)
        with pytest.raises(ForeignError, match=rf"belongs to user {STRANGER}"):
            Capture.attach("test-capture-owner")
        assert len(Capture.attach("test-capture-owner", STRANGER).lanes) == len(made.lanes)
        os.ftruncate(fd, layout.PAGE)
        with pytest.raises(MpnetError, match="another version"):
            Capture.attach("test-capture-owner", STRANGER)
    finally:
        os.close(fd)
        capture.unlink("test-capture-owner")
