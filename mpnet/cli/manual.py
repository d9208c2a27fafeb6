"""The manual page mpnet(1), made of what the commands say of themselves: ``make man`` writes it."""

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc

import click

import mpnet
from mpnet.cli.main import cli

_FILES = (
    ("/run/mpnet/control.sock", "Management socket of a control process of root."),
    ("/etc/mpnet/NAME.toml", "What the service mpnet@NAME serves."),
    ("/dev/shm/mpnet.DEVICE", "State and counters of a device."),  # noqa: S108 - where Linux shows them
    ("~/.cache/mpnet", "The compiled data path and kernels of throw-away guests; $XDG_CACHE_HOME moves it."),
)
_HEAD = """\
.\\" Written by 'make man' from the commands' own help.
.TH MPNET 1 "" "mpnet {version}" "User Commands"
.SH NAME
mpnet \\- {about}
.SH SYNOPSIS
.B mpnet
.I COMMAND
[\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...
.SH DESCRIPTION
.B mpnet run
serves virtio-net devices over vhost-user to QEMU, DPDK and other front-ends; the other commands show, change,
measure and watch them. Standard output is data, standard error is talk. rx is to the guest, tx from it.
.SH COMMANDS
"""
_TAIL = """\
.SH EXIT STATUS
0: done. 1: an error, which is one line on standard error. 2: wrong usage. 128 and more: ended by a signal.
.SH SEE ALSO
.BR qemu-system-x86_64 (1),
.BR ip-tuntap (8),
.BR systemd.service (5)
.PP
docs/ of the source, and share/doc/mpnet/docs of an installation: operations.md, experiments.md, bench.md and
others.
"""


def page() -> str:
    """Give the page in the man macros of roff."""
    about = "a virtio-net device run as a family of Python processes, attached over vhost-user"
    parts = [_HEAD.format(version=mpnet.__version__, about=about)]
    variables: dict[str, str] = {}
    for path, command in _commands(cli, ()):
        parts += _section(path, command)
        for option in command.params:
            if isinstance(option.envvar, str):
                variables.setdefault(option.envvar, f"{option.opts[-1]} of {' '.join(path)}")
    parts.append(".SH ENVIRONMENT\nOptions may be given as variables; the command line is stronger.\n")
    parts += (_item(name, f"As {option}.") for name, option in sorted(variables.items()))
    parts.append(_item("MPNET_JIT", "0 interprets the data path, which is slow and needs no compiler."))
    parts.append(".SH FILES\n")
    parts += (_item(name, text) for name, text in _FILES)
    return "".join([*parts, _TAIL])


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        elif command is not None and not command.hidden:
            yield (*path, name), command


def _section(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join(("mpnet", *path, *command.collect_usage_pieces(context)))
    yield f".SS {_text(usage)}\n"
    for number, paragraph in enumerate(re.split(r"\n\s*\n", cleandoc(command.help or ""))):
        yield (".PP\n" if number else "") + _text(" ".join(paragraph.split())) + "\n"
    for option in command.params:
        record = option.get_help_record(context)
        if record is not None:
            yield _item(*record)


def _item(term: str, text: str) -> str:
    return f".TP\n.B {_text(term)}\n{_text(text)}\n"


def _text(text: str) -> str:
    """Write a text so that roff takes nothing in it for its own."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = escaped.replace("…", "...")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
