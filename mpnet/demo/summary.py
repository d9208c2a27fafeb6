"""What came of the demo."""

import msgspec

NOT_ASKED_FOR = "not asked for"
"""Why there is no Linux guest where the embedded one was chosen."""


class RingTotals(msgspec.Struct, kw_only=True):
    """What one virtqueue did in a part of the demo.

    Attributes:
        queue: number of its queue pair.
        direction: "rx" or "tx", as the guest sees them.
        frames: delivered to the guest, or taken from it.
        bytes: of them.
        kicks: notifications from the guest.
        calls: notifications to the guest.
        drops: frames not delivered, by ``layout.DropReason`` in lower case; empty where there were none.
    """

    queue: int
    direction: str
    frames: int
    bytes: int
    kicks: int
    calls: int
    drops: dict[str, int]


class Check(msgspec.Struct):
    """Something that has to have worked.

    Attributes:
        name: what.
        ok: whether it did.
        detail: the figures.
    """

    name: str
    ok: bool
    detail: str


class Part(msgspec.Struct, kw_only=True):
    """One guest.

    Attributes:
        guest: which.
        seconds: of traffic.
        rings: what each virtqueue did in that time.
        checks: what has to have worked.
    """

    guest: str
    seconds: float
    rings: list[RingTotals]
    checks: list[Check]


class ExperimentRow(msgspec.Struct, kw_only=True):
    """One configuration of the experiment.

    Attributes:
        configuration: its levels.
        packets_per_second: mean of the trials.
        low: end of its interval of 95 %.
        high: the other end.
        cpu_ns_per_packet: processor time of the device.
    """

    configuration: str
    packets_per_second: float
    low: float
    high: float
    cpu_ns_per_packet: float | None


class Experiment(msgspec.Struct, kw_only=True):
    """The small experiment at the end.

    Attributes:
        folder: of its results, which stay until the next demo.
        report: the page in it.
        rows: what came of it.
        skipped: why there was none; empty where there was.
    """

    folder: str = ""
    report: str = ""
    rows: list[ExperimentRow] = msgspec.field(default_factory=list)
    skipped: str = ""


class Summary(msgspec.Struct, kw_only=True):
    """The whole demo.

    Attributes:
        ok: all that was shown worked.
        seconds: from the command to here.
        start_to_first_packet_seconds: from the start of the control process; None where no packet came.
        parts: one a guest.
        skipped: what was left out, and why; empty where nothing was.
        experiment: the small one at the end; None where none was asked for.
    """

    ok: bool
    seconds: float
    start_to_first_packet_seconds: float | None
    parts: list[Part]
    skipped: str = ""
    experiment: Experiment | None = None

    @property
    def left_out(self) -> list[str]:
        """Parts that belong to the whole demo and were not shown; what nobody asked for does not count."""
        no_guest = self.skipped not in {"", NOT_ASKED_FOR}
        no_experiment = self.experiment is not None and self.experiment.skipped != ""
        return ["a Linux guest"] * no_guest + ["the experiment"] * no_experiment


def ping_check(sent: int, times: list[float]) -> Check:
    """All echo requests were answered; ``times`` in milliseconds."""
    detail = f"{len(times)} of {sent} answered"
    if times:
        detail += f", {min(times):.2f} ms at best"
    return Check("ping from the host's kernel", len(times) == sent, detail)


def rings_check(rings: list[RingTotals]) -> Check:
    """Each queue pair carried traffic both ways."""
    idle = [f"{each.direction} of queue pair {each.queue}" for each in rings if each.frames == 0]
    detail = f"none on {', '.join(idle)}" if idle else "rx and tx of each queue pair"
    return Check("every queue carried traffic", not idle, detail)
