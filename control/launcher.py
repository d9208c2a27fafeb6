"""Starting worker processes: by fork, from the best fork server there is.

Where the data path is compiled already, that is one that has loaded it. Else workers begin interpreted, which
takes no second, while other processes compile; then there is a second server, and whoever looks after workers
replaces them. A server lives as long as control or any worker of its own lives, and is started again if it dies.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mpnet.control.compilation import Progress, Told, compile_data_path
from mpnet.control.descriptors import close_aside
from mpnet.control.fork_server import ForkServer, Process
from mpnet.control.log import get_log
from mpnet.control.notify import notify
from mpnet.errors import MpnetError
from mpnet.jit import cache
from mpnet.rpc.channel import Channel
from mpnet.rpc.worker import Report
from mpnet.segment.layout import Code

WORKER = "mpnet.workers.main:run"
WARM = "mpnet.workers.warm"
"""Imported by a server before the first fork."""
MODE = os.environ.get("MPNET_JIT", "")
"""Empty: begin with what there is. "0": interpreted, "1": compiled, whatever takes how long."""
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""A thread of numpy's, though it ends before the first fork, has the C library take each of workers' system calls
for one of several threads: 3 % of a small frame's time."""
_TELL_SECONDS = 5.0
"""How often progress is told."""
_EXTEND_US = 120_000_000
"""How long a service manager shall wait for the next word, while it waits for a start."""
_ATTEMPTS = 2
"""To compile, and to load what was compiled: what is kept may be spoilt."""


class Compiler(Protocol):
    """Where compiled code comes from; in tests from nowhere."""

    def is_done(self) -> bool:
        """Whether all of it is kept."""

    async def compile(self, told: Told) -> bool:
        """Compile it; whether it is kept then."""


class OwnCompiler:
    """The data path's."""

    def is_done(self) -> bool:
        """Whether all of it is kept."""
        return cache.find_whole() is not None

    async def compile(self, told: Told) -> bool:
        """Compile it; whether it is kept then."""
        return await compile_data_path(told)


@dataclass(frozen=True, slots=True)
class Launched:
    """A worker that has just been forked.

    Attributes:
        process: its process.
        channel: control's end of its channel.
        code: what it runs.
    """

    process: Process
    channel: Channel
    code: Code


class Launcher:
    """Starts workers; one for all devices of a control process.

    Args:
        target: ``module:function`` of the worker, as ``workers.fork_server.Run`` has it.
        preload: what servers import.
        compiler: where compiled code comes from.
        mode: as ``MODE`` has it.

    Attributes:
        code: what workers that are launched now run.
        compiling: how far that has got, while the data path is compiled.
    """

    def __init__(
        self,
        target: str = WORKER,
        preload: tuple[str, ...] = (WARM,),
        compiler: Compiler | None = None,
        mode: str = MODE,
    ) -> None:
        self._target, self._preload = target, preload
        self._compiler = compiler or OwnCompiler()
        self._mode = mode
        self._server: ForkServer | None = None
        self._old: list[ForkServer] = []
        self._improving: asyncio.Task[None] | None = None
        self._aborted = False
        self._spoilt = False
        self._told = time.monotonic()
        self.code = Code.UNKNOWN
        self.compiling: Progress | None = None

    def warm_up(self) -> None:
        """Start a server, which then warms up by itself; returns at once.

        Raises:
            OSError: no process can be made.
        """
        if self._server and self._server.alive:
            return
        if self._server:
            self._old.append(self._server)
            self._server = None
        if self._mode == "0":
            self._server, self.code = self._start({"MPNET_JIT": "0"}), Code.INTERPRETED
        elif not self._spoilt and self._compiler.is_done():
            self._server, self.code = self._start({"MPNET_JIT": "load"}), Code.COMPILED
        elif self._mode != "1":
            self._server, self.code = self._start({"MPNET_JIT": "0"}), Code.INTERPRETED
        else:
            self.code = Code.UNKNOWN

    def _start(self, environment: Mapping[str, str]) -> ForkServer:
        server = ForkServer(self._target, self._preload, {**_ENVIRONMENT, **environment})
        server.start()
        return server

    async def launch(self, device: str, slot: int, segment: int) -> Launched:
        """Start one worker.

        Waits for the server to be warm.

        Args:
            device: its name.
            slot: the worker's place.
            segment: descriptor of the device's segment.

        Raises:
            OSError: no process can be made, or the server died.
            MpnetError: the data path cannot be compiled, and nothing else was wanted.
        """
        server = await self._usable()
        if self._aborted:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        code = self.code
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = await server.fork(device, slot, theirs.fileno(), segment)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(0)
        return Launched(process, Channel(ours, Report, close_aside), code)

    async def _usable(self) -> ForkServer:
        """The best server that forks at once, or soon."""
        while not self._aborted:
            self.warm_up()
            if self.code is not Code.COMPILED and self._mode != "0" and self._improving is None:
                self._improving = asyncio.create_task(self._improve())
            if self._server is None and self._improving:
                await asyncio.shield(self._improving)
            elif self._server and await self._is_ready(self._server):
                return self._server
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    async def _is_ready(self, server: ForkServer) -> bool:
        """Whether it forks; what was compiled is spoilt if it does not."""
        code = self.code
        try:
            await server.ready()
        except OSError:
            if server is not self._server:
                return False  # a better one took its place meanwhile, and it ended
            if code is not Code.COMPILED or self._aborted:
                raise
            if not self._spoilt:  # others may have waited for it, too
                get_log().warning("what was compiled cannot be loaded: it is compiled again")
            self._spoilt = True
            return False
        return True

    async def _improve(self) -> None:
        """Compile, load what was compiled, and launch workers with that from then on."""
        log, began = get_log(), time.monotonic()
        log.info(
            "compiling the data path", meanwhile="workers run interpreted" if self._server else "nothing runs"
        )
        try:
            server = await self._compiled_server()
        except (MpnetError, OSError) as error:
            if self._server is None:
                raise
            log.error("workers stay interpreted", problem=str(error))
            return
        finally:
            self.compiling = None
        for reason in cache.complaints:
            log.warning("compiled code is not kept: the next start compiles again", problem=reason)
        if self._server:
            self._server.retire()
            self._old.append(self._server)
        self._server, self.code, self._spoilt = server, Code.COMPILED, False
        self._improving = None
        log.info("the data path is compiled", seconds=round(time.monotonic() - began, 1))
        notify("STATUS=serving; the data path is compiled")

    async def _compiled_server(self) -> ForkServer:
        for attempt in range(_ATTEMPTS):
            kept = await self._compiler.compile(self._tell)
            # Where nothing can be kept, the server compiles for itself, and its workers share that memory too.
            server = self._start({"MPNET_JIT": "load" if kept else "1"})
            self._old.append(server)
            try:
                await server.ready()
            except OSError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                self._old.remove(server)
                return server
        raise AssertionError("unreachable")

    def _tell(self, progress: Progress) -> None:
        self.compiling = progress
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            get_log().info("compiling the data path", done=str(progress))
            notify(f"STATUS=compiling the data path: {progress}", f"EXTEND_TIMEOUT_USEC={_EXTEND_US}")

    def abort(self) -> None:
        """End servers that are still warming up, and with them every start that waits; start no more."""
        self._aborted = True
        if self._improving:
            self._improving.cancel()
        if self._server:
            self._server.kill()

    def close(self) -> None:
        """Let go of all servers: each ends with its last worker."""
        if self._improving:
            self._improving.cancel()
        for server in (*self._old, *([self._server] if self._server else [])):
            server.close()
