"""The log: one line an event on stderr, for people on a terminal and as JSON for programs."""

import logging
import sys

import structlog

Log = structlog.typing.FilteringBoundLogger


def configure(log_format: str = "auto", level: str = "info") -> None:
    """Set the log up for this process.

    Args:
        log_format: "text", "json", or "auto": text where stderr is a terminal, else JSON, as under systemd.
        level: "debug", "info", "warning" or "error": the least that is written.
    """
    terminal = sys.stderr.isatty()
    json = log_format == "json" or (log_format == "auto" and not terminal)
    renderer = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=json),
            structlog.processors.format_exc_info if json else _as_it_is,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_log(**context: object) -> Log:
    """Return a log whose lines carry ``context``."""
    log: Log = structlog.get_logger(**context)
    return log


def _as_it_is(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
