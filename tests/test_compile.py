"""Where machine code is kept and whose is taken: what is not right is as good as not there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpnet.jit import cache
from tests.real.asked import ROOT, real

OTHER_USER = 12345
CODE = b"machine code"
_PROGRAM = """
import sys
from mpnet.jit import cache, kept
from mpnet.jit.syscalls import read
print(read(-1, 0, 0), len(kept.used), len(kept.lost), len(cache.complaints))
"""
REFUSED = "-9"
"""What ``read(-1, 0, 0)`` gives: -EBADF."""


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is known of the folders, and the user's own is a new one."""

    def forget() -> None:
        for known in (cache.folders, cache.writable):
            known.cache_clear()

    monkeypatch.delenv(cache.CHOSEN, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "SHARED", tmp_path / "shared")
    monkeypatch.setattr(cache, "complaints", [])
    forget()
    yield
    forget()


def _own() -> Path:
    folder = cache.writable()
    assert folder
    return folder


def _run(home: Path, **environment: str) -> list[str]:
    """What ``_PROGRAM`` says: errno, files used, files lost, complaints."""
    command = [sys.executable, "-c", _PROGRAM]
    said = subprocess.run(
        command,
        env={**os.environ, "XDG_CACHE_HOME": str(home), "MPNET_JIT": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.split()


@pytest.mark.compiled
def test_code_is_kept_and_taken_again(tmp_path: Path) -> None:
    assert _run(tmp_path) == [REFUSED, "1", "0", "0"]
    assert _run(tmp_path, MPNET_JIT="load") == [REFUSED, "1", "0", "0"]


@pytest.mark.compiled
def test_where_nothing_is_compiled_what_is_not_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="NotKeptError: read is not compiled yet"):
        _run(tmp_path, MPNET_JIT="load")


def test_nothing_of_the_compiler_is_loaded_by_what_is_interpreted() -> None:
    program = "import sys, mpnet.workers.warm; print({'numba', 'llvmlite'} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, env={**os.environ, "MPNET_JIT": "0"}, stdout=subprocess.PIPE, check=True)
    assert said.stdout == b"set()\n"


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _open_to_others(path: Path) -> None:
    path.chmod(0o666)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@real(ROOT)
def _give_away(path: Path) -> None:
    os.chown(path, OTHER_USER, OTHER_USER)


def _dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def _make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILINGS = (_cut, _empty, _flip, _open_to_others, _link, _dangle, _give_away, _make_a_pipe)


@pytest.mark.parametrize("spoil", SPOILINGS)
def test_a_spoilt_file_is_as_good_as_missing(spoil: Callable[[Path], None]) -> None:
    path = _own() / "name"
    assert cache.write(path, CODE)
    assert cache.read(path) == CODE
    spoil(path)
    assert cache.read(path) is None


@pytest.mark.parametrize("spoil", [_cut, _link])
@pytest.mark.compiled
def test_a_spoilt_file_is_compiled_again(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    assert _run(tmp_path) == [REFUSED, "1", "0", "0"]
    (path,) = (each for each in (tmp_path / "mpnet" / "numba").glob("*/*") if each.name != "whole")
    spoil(path)
    assert _run(tmp_path)[:3] == [REFUSED, "1", "0"]
    assert _run(tmp_path, MPNET_JIT="load") == [REFUSED, "1", "0", "0"]


def test_the_folder_is_the_users_alone_whatever_the_umask() -> None:
    before = os.umask(0)
    try:
        assert cache.write(_own() / "name", CODE)
    finally:
        os.umask(before)
    assert _own().stat().st_mode & 0o777 == 0o700
    assert (_own() / "name").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("spoil", [_give_away, lambda folder: folder.chmod(0o777), _link, _make_a_pipe])
def test_a_folder_that_others_could_fill_is_not_used(spoil: Callable[[Path], None]) -> None:
    folder = cache.folder_below(cache.bases()[0])
    cache.make(folder, 0o700)
    assert cache.write(folder / "name", CODE)
    if spoil is _make_a_pipe:
        (folder / "name").unlink()
        folder.rmdir()
        folder.touch()
    spoil(folder)
    assert cache.writable() is None
    assert cache.folders() == ()
    assert len(cache.complaints) == 1


@pytest.mark.compiled
def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    assert _run(Path("/proc/nothing")) == [REFUSED, "0", "1", "1"]


def test_a_full_disk_loses_code_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _own()

    def full(_fd: int, _mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    assert not cache.write(folder / "name", CODE)
    assert not cache.write(folder / "other", CODE)
    assert cache.complaints == [f"{folder}: No space left on device"]
    assert list(folder.iterdir()) == []


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache.writable() is None


def test_a_folder_is_whole_once_it_is_sealed_and_as_long_as_its_files_are() -> None:
    folder = _own()
    for name in "ab":
        assert cache.write(folder / name, CODE)
    assert cache.find_whole() is None
    assert cache.seal(folder, "ab")
    assert cache.find_whole() == folder
    _cut(folder / "b")
    assert cache.find_whole() is None
    (folder / "b").unlink()
    assert cache.find_whole() is None


def test_what_root_compiled_for_all_is_read_by_all_and_written_by_nobody_else() -> None:
    shared = cache.folder_below(cache.bases()[-1])
    cache.make(shared, 0o755)
    assert cache.write(shared / "a", CODE)
    assert cache.seal(shared, "a")
    assert cache.find_whole() == shared
    assert {path.stat().st_mode & 0o777 for path in shared.iterdir()} == {0o644}
    assert cache.writable() != shared


def test_one_that_is_chosen_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.CHOSEN, str(tmp_path / "chosen"))
    assert _own() == cache.folder_below(tmp_path / "chosen")


@pytest.mark.parametrize("variable", ["NUMBA_CPU_NAME", "MPNET_PERF"])
def test_what_changes_code_has_a_folder_of_its_own(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.digest.__wrapped__()
    monkeypatch.setenv(variable, "generic")
    assert cache.digest.__wrapped__() != before


def test_machine_code_outlives_no_change_in_what_it_is_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each file with a compiled function is a part of the key, and so is what these take constants from."""
    package = Path(cache.__file__).parent.parent
    # Its folders are links to others, which rglob does not follow.
    for folder in filter(Path.is_dir, package.iterdir()):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    digest = cache.digest.__wrapped__()
    hot = [
        path
        for path in tmp_path.rglob("*.py")
        if re.search(r"^@(compiled|inlined|apart)$", path.read_text(), re.MULTILINE)
    ]
    assert {path.parent.name for path in hot} >= {"workers", "virtio", "guest", "jit"}
    for path in [*hot, tmp_path / "segment" / "layout.py", tmp_path / "virtio" / "net_header.py"]:
        before = path.read_bytes()
        path.write_bytes(before + b"# changed\n")
        assert cache.digest.__wrapped__() != digest, path
        path.write_bytes(before)
    assert cache.digest.__wrapped__() == digest
