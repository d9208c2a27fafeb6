"""The management socket: binding, who may ask, and what bad input comes to."""

import asyncio
import os
import stat
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpnet
from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import RunConfig
from mpnet.control import management, services
from mpnet.control.management import ManagementServer
from mpnet.control.peer import Peer
from mpnet.errors import MpnetError
from mpnet.rpc.management import LENGTH, MAX_REQUEST_BYTES, METHODS, Client


class FakeDevice:
    def __init__(self, name):
        self.name = name
        self.properties = {}
        self.workers = 1
        self.segment = None
        self.watched = []
        self.config = DeviceConfig(id=name, tap="tap0", socket="/nowhere")

    def describe(self):
        return {"id": self.name, "properties": self.properties, "workers": self.describe_workers()}

    def describe_workers(self):
        return [{"slot": slot} for slot in range(self.workers)]

    async def set(self, name, value):
        if name == "broken":
            raise ZeroDivisionError
        if name == "unencodable":
            self.properties = object()
            return
        if name != "combined":
            raise MpnetError(f"there is no setting {name!r}", "try combined")
        self.properties = {name: value}

    async def scale(self, count):
        self.workers = count

    async def watch_bursts(self, watchers):
        self.watched.append(watchers)


class FakeControl:
    def reread(self):
        kept = tuple(device.config for device in self.devices.values() if device.name != "net2")
        return RunConfig(control=self.options, devices=kept)

    async def add(self, config):
        self.devices[config.id] = FakeDevice(config.id)

    async def remove(self, name):
        del self.devices[name]

    def __init__(self):
        self.added = set()
        self.options = ControlConfig(metrics="127.0.0.1:9464")
        self.devices = {name: FakeDevice(name) for name in ("net0", "net1")}


@pytest.fixture(autouse=True)
def _fake_devices(monkeypatch):
    monkeypatch.setattr(services, "describe_device", FakeDevice.describe)
    monkeypatch.setattr(services, "describe_workers", FakeDevice.describe_workers)
    monkeypatch.setattr(services, "start_to_first_packet", lambda *_: 0.5)
    monkeypatch.setattr(FakeDevice, "first_ring_ns", 0, raising=False)


SHOWN = {
    "version": mpnet.__version__,
    "pid": os.getpid(),
    "metrics": "127.0.0.1:9464",
    "devices": ["net0", "net1"],
}


class Served:
    """A server, and clients beside its event loop."""

    def __init__(self, path):
        self.path = path
        self.seen = []
        self.control = FakeControl()
        self.server = ManagementServer(path, services.make_handlers(self.control), self._observe)

    def _observe(self, method, seconds):
        assert seconds >= 0
        self.seen.append(method)

    async def call(self, method, **params):
        def call():
            with Client(self.path, 60) as client:
                return client.call(method, **params)

        return await asyncio.to_thread(call)

    async def exchange(self, data):
        """Send raw bytes; give all that comes until the server hangs up or an answer is whole."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(data)
        try:
            (length,) = LENGTH.unpack(await asyncio.wait_for(reader.readexactly(LENGTH.size), 60))
            return msgpack.unpackb(await reader.readexactly(length))
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def serving(path):
    served = Served(path)
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "control.sock"


def run(path, scenario):
    async def main():
        async with serving(path) as served:
            return await scenario(served)

    return asyncio.run(main())


def packed(message):
    data = msgpack.packb(message)
    return LENGTH.pack(len(data)) + data


def test_every_method_answers(path):
    async def scenario(served):
        assert await served.call("control.show") == SHOWN
        assert [device["id"] for device in await served.call("device.list")] == ["net0", "net1"]
        shown = await served.call("device.show", device="net1")
        assert (shown["id"], shown["start_to_first_packet_seconds"]) == ("net1", 0.5)
        changed = await served.call("device.set", device="net0", name="combined", value="2")
        assert changed["properties"] == {"combined": "2"}
        assert len((await served.call("worker.scale", device="net0", count=3))["workers"]) == 3
        assert [(each["device"], each["slot"]) for each in await served.call("worker.list")] == [
            ("net0", 0),
            ("net0", 1),
            ("net0", 2),
            ("net1", 0),
        ]
        await served.call("trace.bursts", device="net0")
        config = {"id": "net2", "tap": "tap2", "socket": "/s"}
        assert (await served.call("device.add", config=config))["id"] == "net2"
        assert await served.call("control.reload") == {"changed": [], "refused": []}, "it is not the file's"
        await served.call("device.remove", device="net2")
        assert "net2" not in served.control.devices
        wanted = {"device": "net0", "queue": 7, "direction": "rx", "snaplen": 64, "lane_bytes": 1 << 20}
        with pytest.raises(MpnetError, match="has no queue 7, expected 0 to 0"):
            await served.call("capture.start", **wanted)
        return served.seen

    assert sorted(run(path, scenario)) == sorted(METHODS)


def test_what_a_client_asked_for_ends_with_its_connection(path):
    async def scenario(served):
        watched = served.control.devices["net0"].watched
        clients = [await asyncio.to_thread(Client, path, 60) for _ in range(2)]
        for client in clients:
            await asyncio.to_thread(client.call, "trace.bursts", device="net0")
        assert watched == [1, 1]
        clients[0].close()
        while len(watched) < 3:
            await asyncio.sleep(0.01)
        await served.server.close()  # the other one is still connected
        clients[1].close()
        return watched

    assert run(path, scenario) == [1, 1, -1, -1]


def test_the_socket_is_this_users_alone_and_goes_with_the_server(path):
    async def scenario(_):
        return stat.S_IMODE(path.stat().st_mode)

    assert run(path, scenario) == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    ("method", "params", "problem", "remedy"),
    [
        ("device.destroy", {}, "unknown method 'device.destroy'", "control.show, control.reload"),
        ("device.show", {}, "missing required field 'device'", "it takes: device"),
        ("device.show", {"device": 3}, "Expected 'str', got 'int'", "it takes: device"),
        ("device.list", {"verbose": True}, "unknown field 'verbose'", "it takes: none"),
        ("device.show", {"device": "net9"}, "no device 'net9', expected one of: net0, net1", "mpnet device list"),
        ("worker.scale", {"device": "net0", "count": "2"}, "Expected 'int', got 'str'", "device, count"),
        (
            "device.set",
            {"device": "net0", "name": "colour", "value": "red"},
            "no setting 'colour'",
            "try combined",
        ),
        ("device.set", {"device": "net0", "name": "broken", "value": ""}, "failed inside mpnet", "see the log"),
        (
            "device.set",
            {"device": "net0", "name": "unencodable", "value": ""},
            "failed inside mpnet",
            "see the log",
        ),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_too(path, method, params, problem, remedy):
    def calls():
        with Client(path, 60) as client:
            with pytest.raises(MpnetError) as caught:
                client.call(method, **params)
            assert client.call("control.show") == SHOWN
        return caught.value

    async def scenario(_):
        return await asyncio.to_thread(calls)

    error = run(path, scenario)
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "message",
    [
        [],
        3,
        {},
        {"method": 3},
        {"method": "control.show", "params": []},
        {"method": "x", "extra": 1},
        b"\xff",
        None,
    ],
)
def test_what_is_no_request_is_answered(path, message):
    async def scenario(served):
        return await served.exchange(packed(message))

    assert "this is no request" in run(path, scenario)["error"]["problem"]


def test_an_endless_nesting_is_answered(path):
    data = b"\x91" * (MAX_REQUEST_BYTES - 1) + b"\xc0"

    async def scenario(served):
        return await served.exchange(LENGTH.pack(len(data)) + data)

    assert "this is no request" in run(path, scenario)["error"]["problem"]


def test_an_oversized_request_is_refused_before_it_is_read(path):
    async def scenario(served):
        return await served.exchange(LENGTH.pack(MAX_REQUEST_BYTES + 1))

    assert f"expected {MAX_REQUEST_BYTES} or fewer" in run(path, scenario)["error"]["problem"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_bytes_disturb_nobody(tmp_path, data):
    path = tmp_path / "control.sock"

    async def scenario(served):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await writer.wait_closed()
        return await served.call("control.show")

    assert run(path, scenario) == SHOWN


def test_idle_and_half_sent_requests_keep_nobody_waiting(path):
    async def scenario(served):
        idle = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
        idle[0][1].write(LENGTH.pack(100) + b"half")
        idle[1][1].write(b"\0")
        answers = await asyncio.gather(*(served.call("control.show") for _ in range(8)))
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        return answers

    assert run(path, scenario) == [SHOWN] * 8


def test_requests_that_come_at_once_let_everybody_else_have_a_turn(path):
    async def scenario(served):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(packed({"method": "control.show"}) * 100)
        before, most = 0, 0
        while before < 100:
            await asyncio.sleep(0)
            most, before = max(most, len(served.seen) - before), len(served.seen)
        writer.close()
        await writer.wait_closed()
        return most

    assert run(path, scenario) == 1


def test_a_client_too_many_is_told(path, monkeypatch):
    monkeypatch.setattr(management, "MAX_CLIENTS", 1)

    async def scenario(served):
        with Client(path, 60) as first:
            # An answer: the first is connected by now.
            await asyncio.to_thread(partial(first.call, "control.show"))
            with pytest.raises(MpnetError, match="1 clients are connected already"):
                await served.call("control.show")

    run(path, scenario)


@pytest.mark.parametrize(("own", "peer", "refused"), [(1000, 1001, True), (1000, 0, False), (1000, 1000, False)])
def test_only_the_same_user_and_root_may_ask(path, monkeypatch, own, peer, refused):
    monkeypatch.setattr(Peer, "of", lambda _: Peer(4242, peer, "someone"))
    monkeypatch.setattr(os, "geteuid", lambda: own)

    async def scenario(served):
        return await served.call("control.show")

    if refused:
        with pytest.raises(MpnetError, match="process 4242 of user 1001 may not manage the devices of user 1000"):
            run(path, scenario)
    else:
        assert run(path, scenario) == SHOWN


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # the child only makes system calls
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_kernels_word(tmp_path, path):
    tmp_path.chmod(0o755)
    nobody = 65534

    def ask():
        os.setresuid(nobody, nobody, nobody)
        with Client(Path("control.sock"), 60) as client:
            client.call("control.show")

    def in_child():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.chdir(path.parent)  # pytest's folders are closed to others
                ask()
            except MpnetError as error:
                status = 42 if f"of user {nobody} may not manage" in error.problem else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def scenario(_):
        path.chmod(0o666)
        return await asyncio.to_thread(in_child)

    assert run(path, scenario) == 42


def test_a_second_server_is_told_that_the_socket_is_in_use(path):
    async def scenario(served):
        other = Served(path)
        with pytest.raises(MpnetError, match="in use by another process"):
            await other.server.start()
        await other.server.close()
        return await served.call("control.show")

    assert run(path, scenario) == SHOWN


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    served = Served(tmp_path / "file" / "control.sock")
    with pytest.raises(MpnetError, match="cannot make the folder"):
        asyncio.run(served.server.start())


def test_who_asks_while_the_devices_start_waits_for_the_answer(tmp_path):
    """The socket is there first: nobody is told that no control process runs."""
    path = tmp_path / "folder" / "control.sock"

    async def run():
        listener = services.listen(ControlConfig(socket=str(path)))
        with Client(path) as client:
            asking = asyncio.create_task(asyncio.to_thread(client.call, "device.list"))
            await asyncio.sleep(0.05)
            assert not asking.done()
            server = ManagementServer(path, services.make_handlers(FakeControl()), lambda *_: None)
            await server.start(listener)
            try:
                assert [device["id"] for device in await asking] == ["net0", "net1"]
            finally:
                await server.close()

    asyncio.run(run())
    assert not path.exists()


def test_without_a_management_socket_none_is_bound():
    assert services.listen(ControlConfig(socket=services.NO_SOCKET)) is None
