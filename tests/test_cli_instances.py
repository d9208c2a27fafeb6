"""Commands find the control processes that run, and the one that serves a device; others are named."""

import asyncio
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from mpnet.cli import instances
from mpnet.control.management import ManagementServer
from mpnet.rpc.management import METHODS
from mpnet.segment.segment import Segment
from tests.squatting import STRANGER

Invoke = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /run/mpnet, and for a user's own folder beside it."""
    monkeypatch.setattr(instances, "_SYSTEM_FOLDER", tmp_path / "run" / "mpnet")
    monkeypatch.setattr("mpnet.rpc.management._SYSTEM_FOLDER", tmp_path / "run")
    monkeypatch.delenv("MPNET_CONTROL_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    (tmp_path / "run" / "mpnet").mkdir(parents=True)
    return tmp_path / "run" / "mpnet"


@contextmanager
def control(path: Path, *devices: str) -> Iterator[list[tuple[str, Any]]]:
    """A management server that serves devices by name alone; gives what it is asked."""
    asked: list[tuple[str, Any]] = []

    def answer(method: str) -> Callable[[Any], Any]:
        async def handle(params: Any) -> Any:
            asked.append((method, getattr(params, "device", None)))
            if method == "control.show":
                return {"devices": list(devices)}
            return (
                [{"id": name} for name in devices] if method == "device.list" else {"changed": [], "refused": []}
            )

        return handle

    loop = asyncio.new_event_loop()
    server = ManagementServer(path, {name: answer(name) for name in METHODS}, lambda *_: None)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asked
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def as_user() -> Iterator[None]:
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


def test_devices_of_all_control_processes_are_listed(invoke: Invoke, folder: Path) -> None:
    with control(folder / "control.sock", "net0"), control(folder / "net1.control.sock", "net1", "net2"):
        (folder / "net9.sock").touch()  # a vhost-user socket is nobody's to ask
        listed = invoke("device", "list", "-j")
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert [each["id"] for each in json.loads(listed.stdout)] == ["net0", "net1", "net2"]


def test_the_one_that_serves_the_device_is_asked(invoke: Invoke, folder: Path) -> None:
    with (
        control(folder / "net0.control.sock", "net0") as first,
        control(folder / "net1.control.sock", "net1") as second,
    ):
        assert invoke("device", "show", "net1", "-j").exit_code == 0
        assert ("device.show", "net1") in second
        assert "device.show" not in dict(first)
        missing = invoke("device", "show", "net7")
        several = invoke("reload")
    assert missing.exit_code == 1
    assert "serves a device 'net7'; they serve: net0, net1" in missing.stderr
    assert several.exit_code == 1
    paths = ", ".join(str(folder / f"net{number}.control.sock") for number in (0, 1))
    assert (
        several.stderr
        == f"mpnet: error: several control processes run: {paths}: name one with --control-socket\n"
    )


def test_the_only_one_is_meant_wherever_it_listens(invoke: Invoke, folder: Path) -> None:
    with control(folder / "net0.control.sock", "net0") as asked:
        assert invoke("reload").exit_code == 0
        assert [method for method, _ in asked] == ["control.reload"]
    gone = invoke("device", "list")
    assert (gone.exit_code, gone.stderr.partition(":")[2]) == (
        1,
        f" error: no control process listens at {folder / 'control.sock'}: "
        "start one with 'mpnet run', or name its --control-socket\n",
    )


def test_what_a_user_may_not_ask_is_said(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    (tmp_path / "user" / "mpnet").mkdir(parents=True)
    own = tmp_path / "user" / "mpnet" / "control.sock"
    with control(folder / "net0.control.sock", "net0"):
        with as_user():
            refused = invoke("device", "list")
        expected = f"no permission to ask the control process at {folder}/net0.control.sock, of user root: "
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"mpnet: error: {expected}run the command as that user, or with sudo")
        with control(own, "mine"):
            os.chown(own, STRANGER, STRANGER)
            with as_user():
                partly = invoke("device", "list", "-j")
        assert (partly.exit_code, json.loads(partly.stdout)) == (0, [{"id": "mine"}])
        assert f"mpnet: warning: {folder}/net0.control.sock is left out: {expected}" in partly.stderr


@pytest.mark.parametrize("words", [("top", "--json-stream", "-c", "1"), ("trace",)])
def test_shared_memory_that_a_user_may_not_read_is_no_empty_list(invoke: Invoke, words: tuple[str, ...]) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    made = Segment.create(name, 1)
    try:
        with as_user():
            results = [invoke(words[0], name, *words[1:]), invoke(*words)]
        for result in results:
            assert (result.exit_code, result.stdout) == (1, "")
            assert f"{name} belongs to user root, mode 0600, expected user {STRANGER}" in result.stderr
    finally:
        made.unlink()
