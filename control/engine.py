"""Which engine a device's workers are to use, as far as this machine allows it."""

from mpnet.control.log import Log
from mpnet.errors import ConfigError
from mpnet.jit.uring_setup import why_absent
from mpnet.segment.layout import Engine

_REMEDY = (
    "allow it (sysctl kernel.io_uring_disabled=0; in a container a seccomp profile that lets io_uring_setup, "
    "io_uring_enter and io_uring_register pass), or leave engine=uring out"
)


def choose_engine(wanted: str, log: Log) -> Engine:
    """What workers are told to use; ``auto`` leaves it to them, and to plain writes where there is no io_uring.

    Args:
        wanted: one of ``config.device.ENGINES``.
        log: is told why there is no io_uring, where that decides.

    Raises:
        ConfigError: io_uring is asked for and cannot be had; with the reason.
    """
    engine = Engine[wanted.upper()]
    reason = "" if engine == Engine.RW else why_absent()
    if not reason:
        return engine
    if engine == Engine.URING:
        raise ConfigError(f"engine=uring cannot be had: {reason}", _REMEDY)
    log.info("frames are written without io_uring", engine="rw", reason=reason)
    return Engine.RW
