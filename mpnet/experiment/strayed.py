"""What a trial measured that nobody had asked for: its figures are right, and answer another question."""

from collections.abc import Iterator

from mpnet.experiment.factors import BASE, Factors
from mpnet.experiment.record import Record
from mpnet.virtio.features import names


def strayed(record: Record, factors: Factors) -> list[str]:
    """Say in words where a trial was not what its factors say.

    Args:
        record: of the trial, with all but its anomalies.
        factors: that were asked for.
    """
    if factors.case:
        return []  # the bench's cases have checks of their own
    return [*_crowded(record), *_refused(record, factors), *_idle(record, factors)]


def _crowded(record: Record) -> Iterator[str]:
    """Workers that take turns are no faster than one, however many queue pairs there are."""
    processors = len(record.machine.device_cpus) if record.machine else 0
    workers = len(record.effective.get("workers", ()))
    if 0 < processors < workers:
        yield f"{workers} workers shared {processors} processor{'s' if processors > 1 else ''}"


def _refused(record: Record, factors: Factors) -> Iterator[str]:
    """Of what others than the embedded driver ask for, only what stands in ``features`` is known."""
    negotiated = record.effective.get("features")
    if negotiated is None:
        return
    wanted = names(factors.feature_bits() & ~BASE) if factors.driver == "embedded" else _words(factors, "+")
    if missing := [name for name in wanted if name not in negotiated]:
        yield f"the device did not offer what the driver asked for: {' '.join(missing)}"
    if there := [name for name in _words(factors, "-") if name in negotiated]:
        yield f"negotiated although it was to be left out: {' '.join(there)}"


def _words(factors: Factors, sign: str) -> list[str]:
    return [word[1:].upper() for word in factors.features.split() if word[0] == sign]


def _idle(record: Record, factors: Factors) -> Iterator[str]:
    """Pairs without traffic, though there were flows for all: the hash of the host's kernel gave them none."""
    moved = [queue["rx_packets"] + queue["tx_packets"] for queue in record.queues]
    idle = sum(not packets for packets in moved)
    if 0 < idle < len(moved) and factors.all_flows() >= len(moved):
        yield f"{idle} of {len(moved)} queue pairs moved no packet"
