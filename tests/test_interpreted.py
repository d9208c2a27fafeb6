"""The same source without the compiler: what MPNET_JIT=0 runs is what is stepped through and covered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name",
    [
        "test_bounds.py",
        "test_chain.py",
        "test_coalesce.py",
        "test_counters.py",
        "test_datapath.py",
        "test_refusals.py",
        "test_segmentation.py",
        "test_stepping.py",
        "test_without_tap.py",
    ],
)
def test_interpreted(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / name)],
        env=os.environ | {"MPNET_JIT": "0"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
