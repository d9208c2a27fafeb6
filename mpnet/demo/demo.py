"""The demo's acts, in order, and the order in which they are taken down again."""

import tempfile
import time
from pathlib import Path

from mpnet import namespace
from mpnet.demo.prepare import Choice, Preparation
from mpnet.demo.stage import Stage
from mpnet.demo.summary import Part, Summary
from mpnet.demo.talk import Talk
from mpnet.errors import MpnetError
from mpnet.interrupt import Interrupted, interruptible


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
        interruptible(),
        tempfile.TemporaryDirectory(prefix="mpnet-demo-", dir="/tmp") as folder,
        Preparation(choice) as preparation,
    ):
        talk.title(
            "mpnet demo: a virtio-net device with 2 queue pairs, each served by a worker process of its own"
        )
        talk.note("guest's driver ⇄ virtqueues in its memory ⇄ worker ⇄ queue of a TAP ⇄ the host's kernel")
        preparation.begin(talk)
        namespace.enter()
        talk.done("entered a network namespace of the demo's own: nothing of the machine's network is touched")
        with Stage(Path(folder)) as stage:
            parts = _acts(stage, talk, preparation, seconds)
            first = stage.show().start_to_first_packet_seconds
    return Summary(
        ok=all(check.ok for part in parts for check in part.checks),
        seconds=time.monotonic() - begin,
        start_to_first_packet_seconds=first,
        parts=parts,
        skipped=preparation.skipped,
    )


def _acts(stage: Stage, talk: Talk, preparation: Preparation, seconds: float) -> list[Part]:
    with talk.waiting("starting control and workers (the first start on a machine compiles, for some 20 s)"):
        begin = time.monotonic()
        # Only here: a user namespace is entered before numpy starts threads. It compiles while workers do.
        from mpnet.demo import embedded  # noqa: PLC0415

        embedded.warm_up()
        stage.wait()
    talk.done(f"control and 2 workers serve the device, {time.monotonic() - begin:.1f} s after their start")
    talk.title("Guest: mpnet's own driver")
    parts = [embedded.show(stage, talk, seconds)]
    _say_checks(talk, parts[-1])
    preparation.finish(talk)
    if not preparation.skipped:
        from mpnet.demo import linux  # noqa: PLC0415 - who has no QEMU needs none of it

        talk.title("Guest: Linux in QEMU")
        parts.append(linux.show(stage, talk, seconds))
        _say_checks(talk, parts[-1])
    return parts


def _say_checks(talk: Talk, part: Part) -> None:
    for check in part.checks[1:]:  # the first, ping, was told when it was done
        (talk.done if check.ok else talk.failed)(f"{check.name}: {check.detail}")


__all__ = ["Interrupted", "MpnetError", "run"]
