"""Options that several commands share, and what they stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mpnet.rpc.management import Client, default_socket_path

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
        help="Management socket of the control process.",
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


def call(socket: Path | None, method: str, **params: Any) -> Any:
    """Ask the control process one thing.

    Raises:
        MpnetError: it is not there or refuses.
    """
    with Client(socket or default_socket_path()) as client:
        return client.call(method, **params)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))
