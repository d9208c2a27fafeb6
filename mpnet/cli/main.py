"""The ``mpnet`` command: finds subcommands without importing them and prints errors on one line."""

import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO, Any

import click

import mpnet
from mpnet.cli.streams import checked_streams
from mpnet.errors import MpnetError

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": ("mpnet.cli.run:run", "Serve devices to guests."),
        "device": ("mpnet.cli.device:device", "Show, change, add and remove devices, and attach guests to them."),
        "reload": ("mpnet.cli.reload:reload", "Have the configuration file read again."),
        "worker": ("mpnet.cli.worker:worker", "Show and scale worker processes."),
        "top": ("mpnet.cli.top:top", "Show devices, queue pairs and workers live."),
        "trace": ("mpnet.cli.trace:trace", "Show what devices and workers did last, or do now."),
        "capture": ("mpnet.cli.capture:capture", "Write the packets of a device to a file or into Wireshark."),
        "guest": ("mpnet.cli.guest:guest", "Boot throw-away guests on devices."),
        "demo": ("mpnet.cli.demo:demo", "Show a device at work, with guest and host."),
        "experiment": ("mpnet.cli.experiment:experiment", "Run designed experiments and report on them."),
        "bench": ("mpnet.cli.bench:bench", "Measure mpnet against its peers on this machine."),
        "compile": ("mpnet.cli.compile:compile_", "Compile the data path ahead of the first start."),
        "doctor": ("mpnet.cli.doctor:doctor", "Tell what is missing here and what mends it."),
        "completion": ("mpnet.cli.completion:completion", "Print a shell's completion script."),
    }
)
"""Where each subcommand is and what ``mpnet --help`` says of it."""


class CommandError(click.ClickException):
    """An ``MpnetError`` on its way to standard error; exit status 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print ``mpnet: error: …``."""
        click.echo(f"mpnet: error: {self.format_message()}", file=file, err=file is None)


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, not to list it."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; an ``MpnetError`` becomes its line on standard error."""
        try:
            return super().invoke(ctx)
        except MpnetError as error:
            raise CommandError(str(error)) from error
        except ModuleNotFoundError as error:
            from mpnet.cli import packages  # noqa: PLC0415 - metadata takes a while to import

            wanted = (error.name or "").partition(".")[0]
            missing = [each for each in packages.missing() if packages.name_of(each) == wanted]
            if not missing:
                raise
            remedy = packages.install_command(missing)
            raise CommandError(f"the Python package {wanted} is not installed: {remedy}") from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mpnet.__version__, prog_name="mpnet")
def cli() -> None:
    """A virtio-net device run as a family of Python processes."""


def main() -> None:
    """Entry point of the ``mpnet`` program."""
    try:
        with checked_streams():
            cli(prog_name="mpnet")
    except MpnetError as error:
        CommandError(str(error)).show()
        sys.exit(1)
