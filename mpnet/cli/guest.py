"""``mpnet guest``: throw-away Linux guests on devices that are served."""

from pathlib import Path

import click

from mpnet.cli.nic import nic_of
from mpnet.cli.options import accelerator, control_socket
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.linux import acceleration
from mpnet.guest.linux.guest import Setup, run_interactive
from mpnet.guest.linux.qemu import Accelerator, Machine


@click.group()
def guest() -> None:
    """Boot throw-away guests on devices."""


@guest.command()
@click.option("--device", required=True, metavar="NAME", envvar="MPNET_GUEST_DEVICE", help="Whose guest it is.")
@click.option(
    "--smp",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    envvar="MPNET_SMP",
    help="Virtual processors; the guest uses a queue pair for each.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=128),
    default=1024,
    show_default=True,
    envvar="MPNET_MEMORY",
    help="Guest RAM, MiB.",
)
@accelerator
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="ADDRESS/PREFIX",
    envvar="MPNET_ADDRESS",
    help="Address of the guest's eth0, IPv4 or IPv6. May be given again.",
)
@click.option("--gateway", metavar="ADDRESS", envvar="MPNET_GATEWAY", help="The guest's default IPv4 route.")
@control_socket
@click.pass_context
def qemu(
    ctx: click.Context,
    /,
    device: str,
    *,
    smp: int,
    memory: int,
    accel: Accelerator | None,
    addresses: tuple[str, ...],
    gateway: str | None,
    socket: Path | None,
) -> None:
    """Boot Debian's kernel in QEMU on a device, with a shell on this terminal.

    Its MAC address, MTU and queue pairs are the device's. Nothing the guest does outlives it.
    """
    nic = nic_of(device, socket)
    if missing := debian.missing_packages():
        names = " ".join(missing)
        raise MpnetError(
            f"a guest needs what is not on this machine: {names}",
            f"as root: apt-get install --no-install-recommends {names}",
        )
    machine = Machine(accel=accel or acceleration.best(), smp=smp, memory_mib=memory)
    click.echo(
        f"Booting a guest on {device}: {nic.queue_pairs} queue pairs, {nic.mac}, {machine.accel}. "
        "To leave it: 'exit' in its shell, or Ctrl-A X at any time.",
        err=True,
    )
    ctx.exit(run_interactive(nic, machine, Setup(addresses=addresses, gateway=gateway)))
