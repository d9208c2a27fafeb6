"""The HTTP server that scrapes come to."""

import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from mpnet.control.metrics import Metrics
from mpnet.errors import MpnetError
from mpnet.segment.segment import header_of, is_served, names

_OPENMETRICS = "application/openmetrics-text"
_TYPES = {
    True: f"{_OPENMETRICS}; version=1.0.0; charset=utf-8",
    False: "text/plain; version=0.0.4; charset=utf-8",
}
_GZIP_LEVEL = 1
"""The best takes five times as long, for a text a third shorter."""
_PATIENCE_SECONDS = 10


class Exporter:
    """Answers ``/metrics``, and ``/sd`` with all exporters of this host, from threads of its own.

    Args:
        metrics: what is given out.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def serve(self, host: str, port: int) -> int:
        """Listen and answer from now on.

        Returns:
            The port, which Linux chose where 0 was asked for.

        Raises:
            MpnetError: the address cannot be bound.
        """
        server_class = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, self._answer, server_class, _Handler)
        except OSError as error:
            raise MpnetError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}",
                "choose another address with --metrics HOST:PORT, or stop what listens there",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="mpnet-metrics", daemon=True)
        self._thread.start()
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop answering."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        pages: dict[str, Callable[[WSGIEnvironment], tuple[str, str]]] = {
            "/metrics": self._scrape,
            "/sd": _targets,
        }
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"mpnet: metrics are at /metrics, this host's targets at /sd\n"]
        kind, text = page(environ)
        body, headers = text.encode(), [("Content-Type", kind)]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] == "GET" else [b""]

    def _scrape(self, environ: WSGIEnvironment) -> tuple[str, str]:
        openmetrics = _OPENMETRICS in environ.get("HTTP_ACCEPT", "")
        return _TYPES[openmetrics], self._metrics.text(openmetrics=openmetrics)


def _targets(environ: WSGIEnvironment) -> tuple[str, str]:
    """Prometheus' HTTP service discovery: every exporter of this host, under the name it was asked by."""
    host, _, port = environ.get("HTTP_HOST", "").rpartition(":")
    if not port.isdigit():  # the standard port, which a client leaves out
        host = environ.get("HTTP_HOST", "")
    targets = [f"{host or environ['SERVER_NAME']}:{port}" for port in sorted(_ports())]
    return "application/json", json.dumps([{"targets": targets}])


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


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking the domain name service who this is, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_SECONDS
    """Seconds a client may be silent in the middle of a request."""

    def log_message(self, *_: object) -> None:
        """Scrapes are no events."""
