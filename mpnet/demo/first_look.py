"""What a first demo shows until the data path is compiled: an interpreted driver, in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from mpnet.config import inherited
from mpnet.demo.stage import Seen
from mpnet.demo.talk import Talk
from mpnet.guest.lifeline import bound_to_us

_PROGRAM = "import sys; from mpnet.demo.first_look import main; main(*sys.argv[1:])"


class Looked:
    """What came of it, once it has ended.

    Attributes:
        ok: all that was sent arrived.
    """

    ok = False


@contextmanager
def shown(stage: Seen) -> Iterator[Looked]:
    """Show live lines, for as long as the block lasts; nobody else may write to the screen meanwhile."""
    words = [sys.executable, "-c", _PROGRAM, stage.device, str(stage.folder)]
    looked = Looked()
    with subprocess.Popen(
        [*bound_to_us("TERM"), *words],
        stdin=subprocess.DEVNULL,
        env={**inherited.environment(), "MPNET_JIT": "0"},
        start_new_session=True,  # Ctrl-C is for us
    ) as process:
        try:
            yield looked
        finally:
            process.terminate()
            looked.ok = process.wait() == 0


def main(device: str, folder: str) -> None:
    """Exchange traffic with a device until SIGTERM; exit status 1 if something was lost."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    from mpnet.demo import embedded  # noqa: PLC0415 - the handler comes first

    ok = embedded.look(Seen(device, Path(folder)), Talk(Console(highlight=False)), ended)
    sys.stdout.flush()
    os._exit(0 if ok else 1)
