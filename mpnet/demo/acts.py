"""The demo's acts, in order."""

import time
from pathlib import Path
from types import ModuleType

from mpnet.demo import first_look
from mpnet.demo.prepare import Preparation
from mpnet.demo.stage import Stage
from mpnet.demo.summary import Part
from mpnet.demo.talk import Talk
from mpnet.errors import MpnetError


def perform(
    talk: Talk, preparation: Preparation, folder: Path, seconds: float
) -> tuple[list[Part], float | None]:
    """Serve a device and show each guest on it, in a network namespace of this process's own.

    Returns:
        What came of each guest, and the seconds from the start of the control process to the first packet.

    Raises:
        MpnetError: something did not work at all.
    """
    with Stage(folder) as stage:
        try:
            parts = _acts(stage, talk, preparation, seconds)
        except MpnetError:
            talk.note(f"the last words of 'mpnet run':\n{stage.log_end()}")
            raise
        return parts, stage.show().start_to_first_packet_seconds


def _acts(stage: Stage, talk: Talk, preparation: Preparation, seconds: float) -> list[Part]:
    begin = time.monotonic()
    with talk.waiting("starting control and 2 workers"):
        stage.wait()
    talk.done(f"control and 2 workers serve the device, {time.monotonic() - begin:.1f} s after their start")
    if not stage.compiled():
        talk.title("First look: all is interpreted, and slow, while the data path is compiled, once and for all")
        with first_look.shown(stage) as looked:
            _load_driver()
            stage.wait_for_compiled()
        if not looked.ok:
            raise MpnetError("not all arrived while workers were interpreted, and compiled ones took over")
        talk.done("compiled workers have taken over")
    with talk.waiting("loading the driver"):
        embedded = _load_driver()
    talk.title("Guest: mpnet's own driver")
    parts = [embedded.show(stage, talk, seconds)]
    preparation.finish(talk)
    if not preparation.skipped:
        from mpnet.demo import linux  # noqa: PLC0415 - who has no QEMU needs none of it

        talk.title("Guest: Linux in QEMU")
        parts.append(linux.show(stage, talk, seconds))
    return parts


def _load_driver() -> ModuleType:
    """Import the embedded guest, and compile its driver or load it from the cache."""
    from mpnet.demo import embedded  # noqa: PLC0415 - it takes a while, in which others get on

    embedded.warm_up()
    return embedded
