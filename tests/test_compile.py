"""Compiling where machine code cannot be kept: it is done anew, and nothing else changes."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpnet.jit import compile as jit

NOWHERE = "/proc/nothing"
_PROGRAM = """
from mpnet.jit import compile as jit
from mpnet.jit.syscalls import read
jit.prune_cache()
print(jit.CACHE, read(-1, 0, 0))
"""


def test_code_that_cannot_be_kept_is_compiled_all_the_same() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", _PROGRAM]
    said = subprocess.run(
        command, env=environment | {"XDG_CACHE_HOME": NOWHERE}, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, f"None {-errno.EBADF}\n"), said.stderr


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert jit._own_cache() is None


def test_machine_code_outlives_no_change_in_what_it_is_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each file with a compiled function is a part of the key, and so is what these take constants from."""
    package = Path(jit.__file__).parent.parent
    # Its folders are links to others, which rglob does not follow.
    for folder in filter(Path.is_dir, package.iterdir()):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)
    digest = jit._sources_digest()
    hot = [
        path
        for path in tmp_path.rglob("*.py")
        if re.search(r"^@(compiled|inlined)$", path.read_text(), re.MULTILINE)
    ]
    assert {path.parent.name for path in hot} >= {"workers", "virtio", "guest", "jit"}
    for path in [*hot, tmp_path / "segment" / "layout.py", tmp_path / "virtio" / "net_header.py"]:
        before = path.read_bytes()
        path.write_bytes(before + b"# changed\n")
        assert jit._sources_digest() != digest, path
        path.write_bytes(before)
    assert jit._sources_digest() == digest
