"""``mpnet device``: the devices a control process serves."""

import shlex
from pathlib import Path

import click
import msgspec

from mpnet.cli.nic import nic_of
from mpnet.cli.options import accelerator, ask_all, call, complete_device, control_socket, json_output, print_json
from mpnet.cli.tables import print_device, print_devices
from mpnet.config.device_string import parse_device
from mpnet.config.properties import LINK, PROPERTIES
from mpnet.guest.linux import acceleration, version
from mpnet.guest.linux.libvirt import libvirt_xml
from mpnet.guest.linux.qemu import Accelerator, Machine, attach_arguments
from mpnet.rpc.state import DeviceReport


@click.group()
def device() -> None:
    """Show, change, add and remove devices, and attach guests to them."""


@device.command("list")
@control_socket
@json_output
def list_devices(socket: Path | None, as_json: bool) -> None:
    """List the devices."""
    result = ask_all(socket, "device.list")
    if as_json:
        print_json(result)
        return
    print_devices(msgspec.convert(result, list[DeviceReport]))


@device.command()
@click.argument("name", shell_complete=complete_device)
@control_socket
@json_output
def show(name: str, socket: Path | None, as_json: bool) -> None:
    """Show the device NAME: state, features, rings and counters."""
    _print_report(call(socket, "device.show", device=name), as_json=as_json)


def _complete_value(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    values = LINK if ctx.params.get("property_name") == "link" else ()
    return [value for value in values if value.startswith(incomplete)]


_SET_HELP = "\n\n".join(
    (
        "Set PROPERTY of the device NAME to VALUE, as in: mpnet device set net0 combined 2.",
        "PROPERTY and what VALUE may be:",
        *(f"{name}: {meaning}." for name, meaning in PROPERTIES.items()),
    )
)


@device.command("set", help=_SET_HELP)
@click.argument("name", shell_complete=complete_device)
@click.argument("property_name", metavar="PROPERTY", type=click.Choice(list(PROPERTIES)))
@click.argument("value", shell_complete=_complete_value)
@control_socket
@json_output
def set_property(name: str, property_name: str, value: str, socket: Path | None, as_json: bool) -> None:
    """Set a property: see ``config.properties``."""
    result = call(socket, "device.set", device=name, name=property_name, value=value)
    _print_report(result, as_json=as_json)


@device.command()
@click.argument("words")
@control_socket
@json_output
def add(words: str, socket: Path | None, as_json: bool) -> None:
    """Serve one more device, described as to 'mpnet run --device', and leave the others alone.

    As in: mpnet device add id=net1,tap=tap1,socket=/run/mpnet/net1.sock

    It is in no file: 'mpnet reload' leaves it as it is, and a restart forgets it.
    """
    config = parse_device(words, "WORDS")
    if config.socket_fd is None:
        config = msgspec.structs.replace(config, socket=str(Path(config.socket).absolute()))
    result = call(socket, "device.add", config=msgspec.to_builtins(config))
    _print_report(result, as_json=as_json)


@device.command()
@click.argument("name", shell_complete=complete_device)
@control_socket
def remove(name: str, socket: Path | None) -> None:
    """Serve the device NAME no more: its front-end is hung up on. No other device is touched."""
    call(socket, "device.remove", device=name)


def _print_report(result: object, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    print_device(msgspec.convert(result, DeviceReport))


_memory = click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    envvar="MPNET_MEMORY",
    help="Guest RAM, MiB.",
)


def _read_version(_ctx: click.Context, _param: click.Parameter, value: str | None) -> version.Version | None:
    return version.parse(value) if value is not None else None


@device.command()
@click.argument("name")
@_memory
@accelerator
@click.option(
    "--qemu-version",
    metavar="X.Y",
    envvar="MPNET_QEMU_VERSION",
    callback=_read_version,
    help="The QEMU that is to understand the options. Default: this machine's.",
)
@control_socket
@json_output
def qemu(
    name: str,
    memory: int,
    accel: Accelerator | None,
    qemu_version: version.Version | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Print the QEMU options that attach a guest to the device NAME.

    For use as: qemu-system-x86_64 $(mpnet device qemu net0) …
    """
    nic = nic_of(name, socket)
    understood = qemu_version or version.installed()
    if understood is None:
        click.echo("no qemu-system-x86_64 here: options of a current one, --qemu-version says another", err=True)
    machine = Machine(accel=accel or acceleration.best_or_kvm(), qemu=understood, memory_mib=memory)
    arguments = attach_arguments(nic, machine)
    if as_json:
        print_json(arguments)
        return
    click.echo(shlex.join(arguments))


@device.command()
@click.argument("name")
@_memory
@accelerator
@control_socket
@json_output
def xml(name: str, memory: int, accel: Accelerator | None, socket: Path | None, as_json: bool) -> None:
    """Print the parts of a libvirt domain that attach a guest to the device NAME."""
    machine = Machine(accel=accel or acceleration.best_or_kvm(), memory_mib=memory)
    text = libvirt_xml(nic_of(name, socket), machine)
    if as_json:
        print_json({"xml": text})
        return
    click.echo(text)
