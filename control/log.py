"""The log: one line an event on stderr, as ``key=value`` for people and as JSON for machines."""

import os
import sys

import structlog

Log = structlog.typing.FilteringBoundLogger


def configure(log_format: str = "auto") -> None:
    """Set the log up for this process.

    Args:
        log_format: "console", "json", or "auto": JSON where systemd's journal reads stderr, else console.
    """
    json = log_format == "json" or (log_format == "auto" and "JOURNAL_STREAM" in os.environ)
    renderer = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=json),
            structlog.processors.format_exc_info if json else _as_it_is,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_log(**context: object) -> Log:
    """Return a log whose lines carry ``context``."""
    log: Log = structlog.get_logger(**context)
    return log


def _as_it_is(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
