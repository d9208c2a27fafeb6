"""The HTTP server that scrapes come to."""

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from mpnet.control.acceptor import SPARE_DESCRIPTORS, Acceptor
from mpnet.control.http_request import ServedNames, host_of, takes_gzip
from mpnet.control.log import get_log
from mpnet.control.metrics import Metrics
from mpnet.errors import MpnetError
from mpnet.segment.segment import header_of, is_served, names

MOST_CONNECTIONS = 16
"""At a time, each with a thread; the oldest has to go for one too many, so that nobody keeps Prometheus out."""
PATIENCE_SECONDS = 10.0
"""For a whole request and its answer, however slowly the client sends or takes it."""
_OPENMETRICS = "application/openmetrics-text"
_TYPES = {
    True: f"{_OPENMETRICS}; version=1.0.0; charset=utf-8",
    False: "text/plain; version=0.0.4; charset=utf-8",
}
_GZIP_LEVEL = 1
"""The best takes five times as long, for a text a third shorter."""
_BACKLOG = 64


class Exporter:
    """Answers ``/metrics``, and ``/sd`` with all exporters of this host, from threads of its own.

    Args:
        metrics: what is given out.
        names: that this host is asked by, beside its own and its addresses.
    """

    def __init__(self, metrics: Metrics, names: Iterable[str] = ()) -> None:
        self._metrics = metrics
        self._names = ServedNames(names)
        self._log = get_log()
        self._acceptor = Acceptor(self._serve, self._log, MOST_CONNECTIONS, spare=SPARE_DESCRIPTORS)
        self._threads = ThreadPoolExecutor(MOST_CONNECTIONS, thread_name_prefix="mpnet-metrics")
        self._server: _Server | None = None

    async def serve(self, host: str, port: int) -> int:
        """Listen and answer from now on.

        Returns:
            The port, which Linux chose where 0 was asked for.

        Raises:
            MpnetError: the address cannot be bound.
        """
        try:
            self._server = await asyncio.to_thread(_Server, host, port)
        except OSError as error:
            raise MpnetError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}",
                "choose another address with --metrics HOST:PORT; with port 0 Linux chooses one that is free, "
                "and every exporter of this host tells of it at /sd",
            ) from None
        self._server.set_app(self._answer)
        self._acceptor.start(self._server.socket)
        return int(self._server.server_port)

    async def close(self) -> None:
        """Stop answering."""
        await self._acceptor.close()
        await asyncio.to_thread(self._threads.shutdown)
        if self._server is not None:
            self._server.server_close()

    async def _serve(self, sock: socket.socket) -> None:
        """Have a thread answer one connection; whatever it waits for ends with the connection's time."""
        assert self._server is not None
        job = self._threads.submit(self._server.answer, sock)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(job))
        except TimeoutError:
            pass
        finally:
            # What the thread sends and receives ends with this.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if not job.cancel():
                await asyncio.wrap_future(job)
            sock.close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        if not self._names.has(environ.get("HTTP_HOST", "")):
            start_response("421 Misdirected Request", [("Content-Type", "text/plain")])
            return [b"mpnet: this host is not known by that name; metrics-names has those it is asked by\n"]
        pages: dict[str, Callable[[WSGIEnvironment], tuple[str, str]]] = {
            "/metrics": self._scrape,
            "/sd": _targets,
        }
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"mpnet: metrics are at /metrics, this host's targets at /sd\n"]
        kind, text = page(environ)
        body, headers = text.encode(), [("Content-Type", kind), ("Vary", "Accept, Accept-Encoding")]
        if takes_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] == "GET" else [b""]

    def _scrape(self, environ: WSGIEnvironment) -> tuple[str, str]:
        openmetrics = _OPENMETRICS in environ.get("HTTP_ACCEPT", "")
        return _TYPES[openmetrics], self._metrics.text(openmetrics=openmetrics)


def _targets(environ: WSGIEnvironment) -> tuple[str, str]:
    """Prometheus' HTTP service discovery: every exporter of this host, under the name it was asked by."""
    host = host_of(environ.get("HTTP_HOST", "")) or environ["SERVER_NAME"]
    shown = f"[{host}]" if ":" in host else host
    return "application/json", json.dumps([{"targets": [f"{shown}:{port}" for port in sorted(_ports())]}])


def _ports() -> set[int]:
    """Where the control processes of this user answer scrapes: their devices' segments say it."""
    ports = set()
    for name in names():
        # Another user's says nothing here, nor one that is just being made.
        with contextlib.suppress(MpnetError):
            header = header_of(name)
            if header.metrics_port and is_served(header):
                ports.add(int(header.metrics_port))
    return ports


class _Server(WSGIServer):
    """Answers connections that are accepted elsewhere.

    Raises:
        OSError: the address cannot be bound, or the name has none.
    """

    request_queue_size = _BACKLOG

    def __init__(self, host: str, port: int) -> None:
        # A scope (fe80::1%eth0) is lost by those who take host and port only.
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind, without asking the domain name service who this is, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def answer(self, sock: socket.socket) -> None:
        """Read one request and answer it; nothing that the client does is raised."""
        try:
            sock.settimeout(PATIENCE_SECONDS)
            self.finish_request(sock, ("", 0))
        except OSError:
            pass  # it has gone, or its time is over
        except Exception:  # noqa: BLE001 - whatever a request does, the thread is there for the next one
            get_log().exception("scrape failed")
        finally:
            self.shutdown_request(sock)


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Scrapes are no events."""
