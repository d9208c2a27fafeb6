"""File descriptors: how many the devices need, and the limit on them, which is raised to that at the start.

Descriptors that do not fit are lost in silence when a message brings them: a ring is refused, or stays deaf.
"""

import resource
from collections.abc import Iterable

from mpnet.config.device import DeviceConfig
from mpnet.errors import MpnetError

_PROCESS = 256
"""Control's own: log, event loop, sockets, and those of commands, scrapers and front-ends that wait."""
_DEVICE = 64
"""Of each device beside its rings: socket, in-flight, log, and guest memory of as many regions as is usual."""
_SPARE = 16_384
"""Asked for beyond that where it can be had: for memory of many regions, and for devices that are added later."""


def needed(configs: Iterable[DeviceConfig]) -> int:
    """Descriptors that control has open when guests use all of these devices."""
    return _PROCESS + sum(_of_device(config) for config in configs)


def _of_device(config: DeviceConfig) -> int:
    rings = 2 * config.queue_pairs + 1
    # A TAP queue a pair; kick, call and error a ring; a pidfd and a channel a worker.
    return _DEVICE + config.queue_pairs + 3 * rings + 2 * config.worker_count


def raise_limit(configs: Iterable[DeviceConfig]) -> None:
    """Have this process, and those it starts from now on, open as many files as these devices need.

    Raises:
        MpnetError: the hard limit is below that.
    """
    least = needed(configs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, least + _SPARE)
    if hard < least:
        raise MpnetError(
            f"the devices need {least} open files, but {hard} are the most that this process may have",
            f"raise the hard limit: 'ulimit -Hn {least}' as root, LimitNOFILE={least} in a systemd unit, "
            f"--ulimit nofile={least} of a container; or have fewer queue pairs",
        )
    if soft != resource.RLIM_INFINITY and soft < least + _SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, least + _SPARE), hard))
