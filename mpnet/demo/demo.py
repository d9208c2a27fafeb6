"""What is around the demo: its folder, its namespace, and an orderly end whenever a signal comes."""

import tempfile
import time
from pathlib import Path

from mpnet import namespace
from mpnet.demo.prepare import Choice, Preparation
from mpnet.demo.summary import Summary
from mpnet.demo.talk import Talk
from mpnet.demo.trials import show as show_experiment
from mpnet.interrupt import interruptible


def run(talk: Talk, choice: Choice | None, seconds: float, *, experiment: bool = True) -> Summary:
    """Run the demo; this process stays in the demo's network namespace.

    Args:
        talk: what a person sees.
        choice: which guest; None for the embedded one and, where QEMU is on the machine, Linux.
        seconds: of traffic, for each guest.
        experiment: show a small one at the end.

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
        talk.title("mpnet demo: a virtio-net device with 2 queue pairs, a worker process for each")
        talk.note("guest's driver ⇄ virtqueues ⇄ worker ⇄ TAP queue ⇄ the host's kernel")
        preparation.begin(talk)
        namespace.enter()
        talk.done("in a network namespace of its own: the machine's network is left alone")
        # Only now: a user namespace is entered by a process of one thread, and numpy starts some.
        from mpnet.demo.acts import perform  # noqa: PLC0415

        parts, first = perform(talk, preparation, Path(folder), seconds)
        trials = show_experiment(talk) if experiment else None
    return Summary(
        ok=all(check.ok for part in parts for check in part.checks),
        seconds=time.monotonic() - begin,
        start_to_first_packet_seconds=first,
        parts=parts,
        skipped=preparation.skipped,
        experiment=trials,
    )
