"""``mpnet reload``: have a running control process read its configuration file again."""

from pathlib import Path

import click

from mpnet.cli.options import call, control_socket, json_output, print_json
from mpnet.errors import MpnetError


@click.command()
@control_socket
@json_output
def reload(socket: Path | None, as_json: bool) -> None:
    """Have the configuration file read again, and change what can change at run time.

    That is a device's workers, mtu, mac and poll-us; and devices that are new or gone. What takes a restart is
    named, and the exit status is 1.
    """
    outcome = call(socket, "control.reload")
    if as_json:
        print_json(outcome)
    else:
        for line in outcome["changed"] or ["nothing has changed"]:
            click.echo(line)
    if outcome["refused"]:
        raise MpnetError("not changed: " + "; ".join(outcome["refused"]), "restart, or set the file back")
