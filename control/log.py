"""The log: one line an event on stderr, for people on a terminal and as JSON for programs.

Nothing waits for it. Lines go through a ``Sink``: what cannot be written is lost and counted, as is what a guest
or a front-end repeats beyond the ``LineLimit``.
"""

import atexit
import logging
import os
import sys

import structlog

from mpnet.control.line_limit import LineLimit
from mpnet.control.sink import Sink

Log = structlog.typing.FilteringBoundLogger

_STDERR = 2
_MOST_CHARACTERS = 4096
"""Of one value; a traceback has more, and keeps its end, which says what happened."""
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of syslog(3)."""

sink = Sink(_STDERR, regained=lambda lost: get_log().warning("log lines lost", lines=lost))
limit = LineLimit()


def configure(log_format: str = "auto", level: str = "info") -> None:
    """Set the log up for this process, and have all else that it writes to stderr take the same way.

    Args:
        log_format: "text", "json", or "auto": text where stderr is a terminal, else JSON, as under systemd.
        level: "debug", "info", "warning" or "error": the least that is written.
    """
    terminal = sink.isatty()
    json = log_format == "json" or (log_format == "auto" and not terminal)
    renderer = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=terminal)
    structlog.configure(
        processors=[
            limit,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=json),
            structlog.processors.format_exc_info if json else _as_it_is,
            _cut,
            _Prioritized(renderer) if is_journal(_STDERR) else renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sink),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    # Tracebacks of threads, warnings and asyncio's complaints would block as well.
    sys.stderr = sink
    atexit.register(sink.drain)


def get_log(**context: object) -> Log:
    """Return a log whose lines carry ``context``."""
    log: Log = structlog.get_logger(**context)
    return log


def tell_left_out() -> None:
    """Log how many lines were left out of what is not repeated any more."""
    for device, event, lines in limit.overdue():
        context = {"device": device} if device else {}
        get_log(**context).warning("log lines left out", of=event, lines=lines)


def is_journal(fd: int) -> bool:
    """Tell whether a file descriptor leads to systemd's journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Prioritized:
    """A renderer whose lines begin with their priority, as the journal takes it (sd-daemon(3))."""

    def __init__(self, renderer: structlog.typing.Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: object, name: str, event: structlog.typing.EventDict) -> str:
        mark = f"<{_PRIORITIES[event['level']]}>"
        return "\n".join(mark + line for line in str(self._renderer(logger, name, event)).split("\n"))


def _as_it_is(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event


def _cut(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Shorten values: a line of any length would use the queue up alone."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
            event[name] = (
                f"…{value[1 - _MOST_CHARACTERS :]}"
                if name == "exception"
                else f"{value[: _MOST_CHARACTERS - 1]}…"
            )
    return event
