"""TCP flows between a Linux guest and the host that run until they are told to stop, watched one by one."""

import errno
import select
import socket
import threading
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from mpnet.guest.linux.agent import GuestError, Job
from mpnet.guest.linux.guest import LinuxGuest
from tests.real.running import PATIENCE, wait_until

_CHUNK = 1 << 16


class _Flow:
    """The host's end of one connection that the guest opened: sends all it can, or takes all that comes."""

    def __init__(self, host: str, *, to_guest: bool) -> None:
        self.to_guest = to_guest
        self.moved = 0
        self.failure = ""
        self._stopping = False
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    @property
    def command(self) -> str:
        """What the guest runs."""
        return "nc {host} {port} </dev/null >/dev/null" if self.to_guest else "nc {host} {port} </dev/zero"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(0.2)
                while not self._stopping:
                    with suppress(TimeoutError):
                        self._move(connection)
        except OSError as error:
            self.failure = str(error)

    def _move(self, connection: socket.socket) -> None:
        # Slower than the guest could: many flows share a small machine with it.
        if self.to_guest:
            self.moved += connection.send(bytes(_CHUNK // 4))
        else:
            size = len(connection.recv(_CHUNK))
            if size == 0:
                raise ConnectionError("the guest closed the connection")
            self.moved += size


class Flows:
    """Connections that a guest opened to the host, in each direction `count`; a context manager.

    Args:
        guest: the one end.
        host: address of the other.
        count: in each direction.
    """

    def __init__(self, guest: LinuxGuest, host: str, count: int) -> None:
        self._guest = guest
        self._host = host
        self._flows = [_Flow(host, to_guest=number % 2 == 0) for number in range(2 * count)]
        self._jobs: list[Job] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for flow in self._flows:
            flow.start()
            self._stack.callback(flow.stop)
            self._jobs.append(self._guest.spawn(flow.command.format(host=self._host, port=flow.port)))
        self.expect_progress("they begin")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(GuestError):
            for job in self._jobs:
                job.kill()
        self._stack.close()

    def expect_progress(self, after: str) -> None:
        """Wait until every connection has moved more than could have been under way already.

        Args:
            after: what was done to them, for the failure.
        """
        before = [flow.moved for flow in self._flows]

        def all_moved() -> bool:
            assert not any(flow.failure for flow in self._flows), (after, [flow.failure for flow in self._flows])
            return all(flow.moved > start + _CHUNK for flow, start in zip(self._flows, before, strict=True))

        wait_until(all_moved, f"all flows go on after: {after}")


def expect_answers(address: str, flows: int = 64, port: int = 4) -> None:
    """Assert that the guest answers each of `flows` connection attempts, from as many ports, to a closed port.

    The kernel spreads them over a TAP's queues by their ports; one that lies in a queue nobody serves is asked
    again from the same port, into the same queue, and never answered.
    """
    poll = select.poll()
    with ExitStack() as stack:
        waiting = {}
        for _ in range(flows):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0)
            assert sock.connect_ex((address, port)) == errno.EINPROGRESS
            waiting[sock.fileno()] = sock
            poll.register(sock, select.POLLOUT)

        def all_answered() -> bool:
            for fd, _ in poll.poll(0):
                poll.unregister(fd)
                answer = waiting.pop(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                assert answer == errno.ECONNREFUSED, errno.errorcode.get(answer)
            return not waiting

        wait_until(all_answered, f"{flows} flows are answered")
