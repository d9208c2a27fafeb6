"""``mpnet worker``: the processes that serve queue pairs."""

from pathlib import Path

import click
import msgspec

from mpnet.cli.options import ask_all, call, control_socket, json_output, print_json
from mpnet.cli.tables import print_workers
from mpnet.rpc.state import DeviceReport, WorkerReport


@click.group()
def worker() -> None:
    """Show and scale worker processes."""


@worker.command("list")
@control_socket
@json_output
def list_workers(socket: Path | None, as_json: bool) -> None:
    """List the workers of all devices."""
    result = ask_all(socket, "worker.list")
    if as_json:
        print_json(result)
        return
    print_workers(msgspec.convert(result, list[WorkerReport]))


@worker.command()
@click.argument("device")
@click.argument("count", type=click.IntRange(min=1))
@control_socket
@json_output
def scale(device: str, count: int, socket: Path | None, as_json: bool) -> None:
    """Serve DEVICE's queue pairs with COUNT processes from now on.

    Queue pairs move between processes while packets flow.
    """
    result = call(socket, "worker.scale", device=device, count=count)
    if as_json:
        print_json(result)
        return
    report = msgspec.convert(result, DeviceReport)
    print_workers(msgspec.structs.replace(each, device=report.id) for each in report.workers)
