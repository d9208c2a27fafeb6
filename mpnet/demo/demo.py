"""The demo's acts, in order, and the order in which they are taken down again."""

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mpnet import namespace
from mpnet.demo.prepare import Choice, Preparation
from mpnet.demo.stage import Stage
from mpnet.demo.summary import Part, Summary
from mpnet.demo.talk import Talk
from mpnet.errors import MpnetError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal ended the demo.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def run(talk: Talk, choice: Choice | None, seconds: float) -> Summary:
    """Run the demo; this process stays in the demo's network namespace.

    Args:
        talk: what a person sees.
        choice: which guest; None for the embedded one and, where QEMU is on the machine, Linux.
        seconds: of traffic, for each guest.

    Raises:
        MpnetError: something is missing, or did not work at all.
        Interrupted: a signal came; everything has been taken down.
    """
    begin = time.monotonic()
    # Short: a Unix socket's path has 107 bytes at most.
    with (
        _interruptible(),
        tempfile.TemporaryDirectory(prefix="mpnet-demo-", dir="/tmp") as folder,
        Preparation(choice) as preparation,
    ):
        talk.title("mpnet demo: a virtio-net device with 2 queue pairs, a worker process for each")
        talk.note("guest's driver ⇄ virtqueues ⇄ worker ⇄ TAP queue ⇄ the host's kernel")
        preparation.begin(talk)
        namespace.enter()
        talk.done("in a network namespace of its own: the machine's network is left alone")
        with Stage(Path(folder)) as stage:
            try:
                parts = _acts(stage, talk, preparation, seconds)
            except MpnetError:
                talk.note(f"the last words of 'mpnet run':\n{stage.log_end()}")
                raise
            first = stage.show().start_to_first_packet_seconds
    return Summary(
        ok=all(check.ok for part in parts for check in part.checks),
        seconds=time.monotonic() - begin,
        start_to_first_packet_seconds=first,
        parts=parts,
        skipped=preparation.skipped,
    )


def _acts(stage: Stage, talk: Talk, preparation: Preparation, seconds: float) -> list[Part]:
    with talk.waiting("starting control and 2 workers; the very first start compiles, for some 20 s"):
        begin = time.monotonic()
        # Only here: a user namespace is entered before numpy starts threads. It compiles while workers do.
        from mpnet.demo import embedded  # noqa: PLC0415

        embedded.warm_up()
        stage.wait()
    talk.done(f"control and 2 workers serve the device, {time.monotonic() - begin:.1f} s after their start")
    talk.title("Guest: mpnet's own driver")
    parts = [embedded.show(stage, talk, seconds)]
    preparation.finish(talk)
    if not preparation.skipped:
        from mpnet.demo import linux  # noqa: PLC0415 - who has no QEMU needs none of it

        talk.title("Guest: Linux in QEMU")
        parts.append(linux.show(stage, talk, seconds))
    return parts


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first signal to end into ``Interrupted``; further ones do not disturb the clearing up."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
