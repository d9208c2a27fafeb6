"""``mpnet compile``: the data path made machine code ahead of time, for images, packages and impatient users."""

import asyncio
import os
from pathlib import Path

import click
from rich.console import Console

from mpnet.control.compilation import Progress, compile_data_path
from mpnet.errors import MpnetError
from mpnet.jit import cache


@click.command("compile")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help=f"Keep the code below this folder, readable for all users: {cache.SHARED}, which all look into, or one "
    f"that {cache.CHOSEN} names in the environment of who shall use it.",
)
def compile_(folder: Path | None) -> None:
    """Compile the data path now, for exactly these packages and this kind of processor.

    Otherwise the first start does so while its workers run interpreted. What is compiled already is left as it
    is. The folder of the code is printed.
    """
    wanted = cache.folder_below(folder) if folder else None
    if wanted is None or not cache.is_whole(wanted):
        talk = Console(stderr=True, highlight=False)
        if not compile_first(talk, folder):
            raise MpnetError("compiled code cannot be kept: " + "; ".join(cache.complaints), _REMEDY)
    kept = wanted or cache.find_whole()
    if kept:
        click.echo(kept)


def compile_first(talk: Console, base: Path | None = None) -> bool:
    """Compile the data path where that has not been done, and show how far it is.

    Nothing is done where workers are to be interpreted.

    Args:
        talk: where to show it.
        base: the folder to keep it below; where none is given, one of this user's, if none has it yet.

    Returns:
        Whether it is kept, if anything was to be done.

    Raises:
        MpnetError: it cannot be compiled.
    """
    if os.environ.get("MPNET_JIT") == "0" or (base is None and cache.find_whole()):
        return True
    with talk.status("compiling the data path, which is done once") as status:

        def told(progress: Progress) -> None:
            status.update(f"compiling the data path, which is done once: {progress}")

        return asyncio.run(compile_data_path(told, base))


_REMEDY = "set XDG_CACHE_HOME to a folder that is yours alone and has room, or give --folder"
