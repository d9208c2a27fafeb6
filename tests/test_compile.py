"""Compiling where machine code cannot be kept: it is done anew, and nothing else changes."""

import errno
import os
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
