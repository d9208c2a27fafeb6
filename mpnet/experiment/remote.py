"""Trials over hosts: dask.distributed has the scheduler, the workers and what is told between them.

A dask worker that has the resource ``mpnet=1`` stands for a host, and a trial takes all of it: one at a time.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from mpnet.errors import MpnetError
from mpnet.experiment.extras import need
from mpnet.experiment.local import Host
from mpnet.experiment.plan import Trial, sessions
from mpnet.experiment.record import Record, decode

RESOURCE = "mpnet"
_CONNECT_SECONDS = 10


def run_on(scheduler: str, trials: Iterable[Trial]) -> Iterator[Record]:
    """Run trials on the hosts of a scheduler.

    Args:
        scheduler: its address, as ``tcp://192.0.2.1:8786``.
        trials: handed out in this order; records come as they end.

    Raises:
        MpnetError: nobody listens there, or no host takes trials.
    """
    distributed = need("distributed", "running over hosts")
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise MpnetError(
            f"no dask scheduler answers at {scheduler!r}: {error}",
            "start one with 'dask scheduler' and give its address",
        ) from None
    with client:
        _check_hosts(client)
        lines = [msgspec.json.encode(session) for session in sessions(trials)]
        # Not pure: the same trial tried again is another one. Priorities keep the order of the plan.
        futures = [
            client.submit(run_session, line, pure=False, resources={RESOURCE: 1}, priority=-number, retries=2)
            for number, line in enumerate(lines)
        ]
        for _, answer in distributed.as_completed(futures, loop=client.loop, with_results=True):
            yield from map(decode, answer)


def _check_hosts(client: Any) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    able = [worker for worker in workers.values() if worker["resources"].get(RESOURCE)]
    if not able:
        raise MpnetError(
            f"none of the scheduler's {len(workers)} workers has the resource {RESOURCE!r}",
            f"start one on each host: dask worker ADDRESS --nthreads 1 --resources {RESOURCE}=1",
        )


def run_session(line: bytes) -> list[bytes]:
    """Run a session's trials on this host; records with the dask worker's name as their host."""
    distributed = need("distributed", "running over hosts")
    with Host() as host:
        records = list(host.run(msgspec.json.decode(line, type=list[Trial])))
    for record in records:
        record.host = str(distributed.get_worker().name)
    return [msgspec.json.encode(record) for record in records]
