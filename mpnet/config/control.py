"""What a user asks of the control process itself."""

import msgspec

from mpnet.config.place import FieldError

LOG_FORMATS = ("auto", "text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
_MAX_PORT = 65535


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Options of the control process; the ``[control]`` table of a file.

    Attributes:
        socket: path of the management socket; empty for the default one.
        metrics: ``HOST:PORT`` to serve Prometheus on; empty for nowhere. Port 0 lets Linux choose one.
        metrics_names: names that this host is scraped by, beside its host name and its addresses.
        log_format: "text" for people, "json" for programs, "auto" by whether stderr is a terminal.
        log_level: the least that is written: "debug", "info", "warning" or "error".

    Raises:
        FieldError: a value that cannot be used.
    """

    socket: str = ""
    metrics: str = ""
    metrics_names: tuple[str, ...] = ()
    log_format: str = "auto"
    log_level: str = "info"

    def __post_init__(self) -> None:
        if self.metrics:
            parse_endpoint(self.metrics)
        if self.log_format not in LOG_FORMATS:
            raise FieldError(
                "log_format", f"log-format is {self.log_format!r}, expected one of {', '.join(LOG_FORMATS)}"
            )
        if self.log_level not in LOG_LEVELS:
            raise FieldError(
                "log_level", f"log-level is {self.log_level!r}, expected one of {', '.join(LOG_LEVELS)}"
            )

    @property
    def metrics_endpoint(self) -> tuple[str, int] | None:
        """Host and port of ``metrics``; None where it is empty."""
        return parse_endpoint(self.metrics) if self.metrics else None


def parse_endpoint(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        FieldError: it is none; about the field ``metrics``.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or (":" in host and not bracketed) or not port.isascii() or not port.isdigit():
        raise FieldError(
            "metrics", f"metrics is {text!r}, expected HOST:PORT", "as in 127.0.0.1:9464 or [::1]:9464"
        )
    if len(port) > len(str(_MAX_PORT)) or int(port) > _MAX_PORT:
        raise FieldError("metrics", f"metrics has port {port}, expected 0 to {_MAX_PORT}")
    return host, int(port)
