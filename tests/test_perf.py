"""What MPNET_PERF=1 makes of compiled functions: names for perf, and frames that it can follow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpnet.jit import perf
from mpnet.jit.perf import plain_name

PROGRAM = """
import ctypes, sys
from pathlib import Path
import numba
from mpnet.jit import perf
from mpnet.virtio.split_ring import need_event
need_event.compile((numba.int64,) * 3)
path = perf.write_map(Path(sys.argv[1]))
for line in path.read_text().splitlines():
    start, size, name = line.split(" ", 2)
    print(name, int(size, 16), ctypes.string_at(int(start, 16), 4).hex())
"""
PUSH_RBP_MOV_RSP_RBP = "554889e5"


def _mapped(folder: Path) -> dict[str, tuple[int, str]]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=os.environ | {"MPNET_PERF": "1", "MPNET_JIT": "1", "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = (line.split() for line in result.stdout.splitlines())
    return {name: (int(size), code) for name, size, code in lines}


@pytest.mark.compiled
def test_functions_have_names_and_frames(tmp_path: Path) -> None:
    """Compiled, and then from the cache."""
    for _ in range(2):
        size, code = _mapped(tmp_path)["mpnet.virtio.split_ring.need_event"]
        assert size > 0
        assert code == PUSH_RBP_MOV_RSP_RBP


def test_names() -> None:
    assert plain_name("_ZN5mpnet7workers4loop5serveB2v1B52c8tJTI") == "mpnet.workers.loop.serve"
    assert plain_name("cfunc._ZN5mpnet3jit3addB2v1E") == "mpnet.jit.add"
    assert plain_name("NRT_incref") == "NRT_incref"


def test_a_link_in_the_maps_place_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_dispatchers", [])
    victim, path = tmp_path / "victim", tmp_path / f"perf-{os.getpid()}.map"
    victim.write_text("precious")
    path.symlink_to(victim)
    assert perf.write_map(tmp_path) == path
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    path.unlink()
    path.symlink_to(victim)
    monkeypatch.setattr(Path, "unlink", _forbidden)  # as it is in a sticky folder, of another user's file
    perf.write_map(tmp_path)
    assert victim.read_text() == "precious"


def _forbidden(_path: Path) -> None:
    raise PermissionError
