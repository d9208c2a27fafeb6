"""A start on a machine that has never compiled: at work at once, compiled later, and nothing lost in between."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mpnet.control import compilation
from mpnet.control.compilation import Progress, compile_data_path
from mpnet.errors import MpnetError
from mpnet.guest.driver import Driver, Setup
from mpnet.guest.stream import Stream
from mpnet.guest.traffic import Plan, Traffic
from mpnet.jit import cache
from mpnet.rpc.management import Client
from mpnet.workers import warm
from tests.real.asked import ROOT, real
from tests.real.running import PATIENCE, wait_until

FRAMES = 200
assert warm  # compiled before any test waits for it


@pytest.fixture
@real(ROOT)
def never_sealed(tmp_path: Path) -> Path:
    """A cache in which all is found, and nothing says so: compiling takes no more than loading."""
    whole = cache.find_whole()
    assert whole
    folder = cache.folder_below(tmp_path / "mpnet")
    cache.make(folder.parent, 0o700)
    shutil.copytree(whole, folder)
    (folder / "whole").unlink()
    return tmp_path


@contextmanager
def _run(folder: Path, home: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    words = f"id=cold{os.getpid()},backend=echo,socket={folder / 'net0.sock'},queue-pairs=2"
    command = [sys.executable, "-c", "from mpnet.cli.main import main; main()", "run", "--device", words]
    command += ["--control-socket", str(folder / "control.sock"), "--log-format", "json"]
    settings = {name: value for name, value in os.environ.items() if name != "MPNET_JIT"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**settings, "XDG_CACHE_HOME": str(home), **environment}, stderr=log, text=True
        )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0, (folder / "log").read_text()


def _workers(folder: Path) -> list[dict[str, Any]]:
    with suppress(MpnetError), Client(folder / "control.sock") as client:
        workers: list[dict[str, Any]] = client.call("worker.list")
        return workers
    return []


def _codes(folder: Path) -> set[str]:
    return {worker["code"] for worker in _workers(folder)}


def test_frames_flow_at_once_and_none_is_lost_when_compiled_workers_take_over(
    tmp_path: Path, never_sealed: Path
) -> None:
    with _run(tmp_path, never_sealed):
        wait_until(lambda: _codes(tmp_path) == {"interpreted"}, "interpreted workers")
        first = {worker["pid"] for worker in _workers(tmp_path)}
        with Driver.connect(tmp_path / "net0.sock", Setup(queue_pairs=2)) as driver:
            flows = [Traffic(pair, Stream(), Plan()) for pair in driver.pairs]

            def exchange() -> None:
                for flow in flows:
                    report = flow.run(PATIENCE, send=FRAMES, receive=FRAMES)
                    assert report.finished
                    assert report.received["packets"] == FRAMES
                    assert report.received["corrupt"] == report.received["lost"] == 0

            exchange()
            while _codes(tmp_path) != {"compiled"}:
                exchange()
            exchange()
        workers = _workers(tmp_path)
        assert not first & {worker["pid"] for worker in workers}
        assert {sum(worker["restarts"].values()) for worker in workers} == {0}
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events.count("worker replaced") == 2
    assert events.index("worker started") < events.index("the data path is compiled")


def test_what_a_run_has_compiled_the_next_begins_with(tmp_path: Path, never_sealed: Path) -> None:
    for codes in ({"interpreted", "compiled"}, {"compiled"}):
        with _run(tmp_path, never_sealed):
            wait_until(lambda: _codes(tmp_path), "workers")
            assert _codes(tmp_path) <= codes
            wait_until(lambda: _codes(tmp_path) == {"compiled"}, "compiled workers")


def test_a_cut_file_is_compiled_again_and_takes_nothing_offline(tmp_path: Path, never_sealed: Path) -> None:
    """Cut after it was sealed, in a way that its size does not tell."""
    (folder,) = (never_sealed / "mpnet" / "numba").iterdir()
    names = [path.name for path in folder.iterdir()]
    assert cache.seal(folder, names)
    (path,) = (path for path in folder.iterdir() if ".trace.trace-" in path.name)
    path.write_bytes(bytes(path.stat().st_size))
    with _run(tmp_path, never_sealed):
        wait_until(lambda: "interpreted" in _codes(tmp_path), "interpreted workers")
        wait_until(lambda: _codes(tmp_path) == {"compiled"}, "compiled workers")
    assert "what was compiled cannot be loaded" in (tmp_path / "log").read_text()


def test_compile_makes_a_folder_for_all_users_once(
    tmp_path: Path, never_sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(never_sealed))
    told: list[str] = []
    assert asyncio.run(compile_data_path(lambda progress: told.append(str(progress)), tmp_path / "shared"))
    folder = cache.folder_below(tmp_path / "shared")
    assert cache.is_whole(folder)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert " functions, " in told[-1]


def test_a_compiler_that_fails_says_why_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_COMPILE", "mpnet.no_such_module:main")
    with pytest.raises(MpnetError, match=r"cannot be compiled: status 1: .*no_such_module"):
        asyncio.run(compile_data_path(lambda _progress: None))


def test_progress_is_told_in_functions_and_processor_time() -> None:
    assert str(Progress(3, 40, 12.6)) == "3 of 40 functions, 13 s of processor time"


def test_long_work_on_one_function_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits goes by what is told: LLVM may take a while for a function, and says nothing."""
    monkeypatch.setattr(compilation, "_LOOK_SECONDS", 0.01)
    told: list[float] = []

    async def run() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        watching = asyncio.create_task(
            compilation._watch([process], Progress(), lambda progress: told.append(progress.seconds))
        )
        while len(told) < 3:
            await asyncio.sleep(0.01)
        watching.cancel()
        process.kill()
        await process.wait()

    asyncio.run(run())
    assert told == sorted(set(told))


def test_a_first_demo_shows_traffic_before_anything_is_compiled(never_sealed: Path) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MPNET_")}
    command = [sys.executable, "-c", "from mpnet.cli.main import main; main()", "demo", "--guest", "embedded"]
    said = subprocess.run(
        [*command, "--no-experiment", "--seconds", "1"],
        env={**settings, "XDG_CACHE_HOME": str(never_sealed)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=4 * PATIENCE,  # the driver may have to be compiled, too
        check=True,
    ).stdout
    first, _, rest = said.partition("compiled workers have taken over")
    assert "First look" in first
    assert "received by the kernel's sockets" in first  # the interpreted driver's, all of them
    assert "everything worked" in rest
