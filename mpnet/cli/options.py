"""Options that several commands share, and what they stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mpnet.cli.instances import Instances
from mpnet.rpc.management import Client

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def complete_device(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a device from those that have a segment: control need not answer for that."""
    from mpnet.segment import segment as segments  # noqa: PLC0415 - it brings numpy, which no other command needs

    return [name for name in segments.names() if name.startswith(incomplete)]


def control_socket(command: Decorated) -> Decorated:
    """Add ``--control-socket``, passed as ``socket``: a path or None."""
    return click.option(
        "--control-socket",
        "socket",
        type=click.Path(path_type=Path),
        envvar="MPNET_CONTROL_SOCKET",
        help="Management socket of the control process. Default: the device's, or that of the only one there is.",
    )(command)


def accelerator(command: Decorated) -> Decorated:
    """Add ``--accel``, passed as ``accel``: "kvm", "tcg", or None where nobody said."""
    return click.option(
        "--accel",
        type=click.Choice(["kvm", "tcg"]),
        envvar="MPNET_ACCEL",
        help="KVM, or emulation (tcg). Default: KVM where it works.",
    )(command)


def json_output(command: Decorated) -> Decorated:
    """Add ``-j/--json``, passed as ``as_json``."""
    return click.option(
        "-j", "--json", "as_json", is_flag=True, envvar="MPNET_JSON", help="Print one JSON document."
    )(command)


def connect(socket: Path | None, device: str | None = None) -> Client:
    """Connect to a control process.

    Args:
        socket: where it listens; None for the one that serves ``device``, or else the only one there is.
        device: which is asked about; None where it is no one's.

    Raises:
        MpnetError: it is not there, may not be asked, or it cannot be told which is meant.
    """
    if socket is not None:
        return Client(socket)
    with Instances.find() as found:
        return Client(found.choose(device))


def call(socket: Path | None, method: str, **params: Any) -> Any:
    """Ask the control process one thing: the one of ``params["device"]``, where that is given.

    Raises:
        MpnetError: it is not there or refuses.
    """
    with connect(socket, params.get("device")) as client:
        return client.call(method, **params)


def ask_all(socket: Path | None, method: str) -> list[Any]:
    """Ask every control process there is, or the one at ``socket``, for a list; gives all entries.

    Raises:
        MpnetError: there is none that may be asked.
    """
    if socket is not None:
        return list(call(socket, method))
    with Instances.find() as found:
        return found.ask_all(method)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))
