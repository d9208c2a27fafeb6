"""``mpnet run``: the control process, with the manners of a vhost-user back-end program."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from mpnet.config.control import LOG_FORMATS, LOG_LEVELS, ControlConfig
from mpnet.config.device import BACKENDS, FD_PREFIX, DeviceConfig
from mpnet.config.device_string import parse_settings
from mpnet.config.file import read_file
from mpnet.config.layer import Layer, RunConfig, merge
from mpnet.config.place import FieldError, Place
from mpnet.config.setting import Setting, SettingMap, Table, read_text

_CONTROL_OPTIONS = {
    "control_socket": "socket",
    "metrics": "metrics",
    "metrics_names": "metrics_names",
    "log_format": "log_format",
    "log_level": "log_level",
}
_DEVICE_OPTIONS = {"queue_pairs": "queue_pairs", "workers": "workers", "cpus": "cpus"}
_BACKEND_OPTIONS = {"tap": "tap", "backend": "backend", "socket_path": "socket"}
_SOURCES = (ParameterSource.ENVIRONMENT, ParameterSource.COMMANDLINE)
_BACKEND_DEVICE = "net0"
"""The id of the device that ``--socket-path`` or ``--fd`` describes."""


def _print_capabilities(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Answer docs/interop/vhost-user.json: the type, and which options of the program a manager may use."""
    if not value or ctx.resilient_parsing:
        return
    options = ["tap", *_DEVICE_OPTIONS]
    click.echo(json.dumps({"type": "net", "features": [name.replace("_", "-") for name in options]}))
    ctx.exit()


@click.command()
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="WORDS",
    envvar="MPNET_DEVICE",
    help="Serve a device: id=net0,tap=tap0,socket=PATH and, after further commas, queue-pairs=N, workers=M, "
    "cpus=0-3+8, mac=…, mtu=…, create=on, gro=off, gso=off, engine=rw or uring, poll-us=N, client=on, "
    "users=NAME, socket-mode=0660, socket-group=NAME; backend=null or echo instead of tap=. May be given again. "
    "A comma in a value is doubled.",
)
@click.option("--queue-pairs", metavar="N", envvar="MPNET_QUEUE_PAIRS", help="Queue pairs of each device.")
@click.option(
    "--workers", metavar="M", envvar="MPNET_WORKERS", help="Processes per device. Default: one per queue pair."
)
@click.option("--cpus", metavar="LIST", envvar="MPNET_CPUS", help="Processors to pin workers to, as 0-3,8.")
@click.option("--metrics", metavar="HOST:PORT", envvar="MPNET_METRICS", help="Serve Prometheus metrics here.")
@click.option(
    "--metrics-names", metavar="NAME+…", envvar="MPNET_METRICS_NAMES", help="Other names this host is scraped by."
)
@click.option("--control-socket", metavar="PATH", envvar="MPNET_CONTROL_SOCKET", help="Management socket.")
@click.option(
    "--config", type=click.Path(path_type=Path), envvar="MPNET_CONFIG", help="TOML file: [control], [[device]]."
)
@click.option(
    "--log-format", metavar="|".join(LOG_FORMATS), envvar="MPNET_LOG_FORMAT", help="How the log is written."
)
@click.option(
    "--log-level", metavar="|".join(LOG_LEVELS), envvar="MPNET_LOG_LEVEL", help="The least that is logged."
)
@click.option("--tap", metavar="TAP", envvar="MPNET_TAP", help="TAP of the device of --socket-path or --fd.")
@click.option("--backend", metavar="|".join(BACKENDS), envvar="MPNET_BACKEND", help="What is behind that device.")
@click.option(
    "--socket-path", metavar="PATH", envvar="MPNET_SOCKET_PATH", help="Serve one device on this socket."
)
@click.option(
    "--fd", type=click.IntRange(min=0), envvar="MPNET_FD", help="Serve one device on this connected socket."
)
@click.option(
    "--print-capabilities",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_capabilities,
    help="Print what this back-end is, as JSON, and exit.",
)
@click.pass_context
def run(ctx: click.Context, /, config: Path | None, **_options: Any) -> None:
    """Serve devices to guests until SIGTERM or SIGINT.

    A word in a --device is stronger than the flag for all devices, a flag than its environment variable, that
    than the file.
    """
    given = [_read_layer(_given(ctx, source)) for source in _SOURCES]

    def read() -> RunConfig:
        return merge([*([read_file(config)] if config else []), *given])

    chosen = read()
    if not chosen.devices:
        raise click.UsageError(
            "there is no device to serve: give --device id=…,tap=…,socket=…, a --config with a [[device]], "
            "or --tap with --socket-path or --fd",
            ctx,
        )
    _serve(chosen, read if config else None)


@dataclass(frozen=True, slots=True)
class _Given:
    """An option that was given: its value, and what a person calls it where it was given."""

    value: Any
    spelling: str

    def place(self) -> Place:
        return Place.whole(self.spelling, str(self.value))


def _given(ctx: click.Context, source: ParameterSource) -> dict[str, _Given]:
    """Collect the options that came from the environment or from the command line, by name."""
    given = {}
    for option in ctx.command.params:
        if option.name in ctx.params and ctx.get_parameter_source(option.name) is source:
            spelling = option.opts[0] if source is ParameterSource.COMMANDLINE else option.envvar
            given[option.name] = _Given(ctx.params[option.name], str(spelling))
    return given


def _read_layer(given: Mapping[str, _Given]) -> Layer:
    layer = Layer(
        control=_settings(ControlConfig, given, _CONTROL_OPTIONS),
        every_device=_settings(DeviceConfig, given, _DEVICE_OPTIONS),
    )
    if devices := given.get("devices"):
        for text in devices.value:
            layer.add_device(parse_settings(text, devices.spelling), Place.whole(devices.spelling, text))
    backend = _backend_settings(given)
    if backend:
        layer.add_device(backend, backend["id"].place)
    return layer


def _backend_settings(given: Mapping[str, _Given]) -> SettingMap:
    """Give the device of ``--socket-path`` or ``--fd``; empty where none of these is given."""
    if "socket_path" in given and "fd" in given:
        raise given["fd"].place().error("stands beside --socket-path, expected one of the two", "remove one")
    settings = _settings(DeviceConfig, given, _BACKEND_OPTIONS)
    if "fd" in given:
        settings["socket"] = Setting(f"{FD_PREFIX}{given['fd'].value}", given["fd"].place())
    if settings:
        place = next(iter(settings.values())).place
        settings["id"] = Setting(_BACKEND_DEVICE, place)
    return settings


def _settings(table: Table, given: Mapping[str, _Given], names: Mapping[str, str]) -> SettingMap:
    """Read options of a table: ``names`` has the field's name by the option's."""
    fields = {field.name: field for field in msgspec.structs.fields(table)}
    settings: SettingMap = {}
    for option, name in names.items():
        if option not in given:
            continue
        place = given[option].place()
        try:
            settings[name] = Setting(read_text(fields[name], given[option].value), place)
        except FieldError as error:
            raise place.error(error.problem, error.remedy) from None
    return settings


def _serve(chosen: RunConfig, reread: Callable[[], RunConfig] | None) -> None:
    from mpnet.control.files import raise_limit  # noqa: PLC0415 - errors, help and capabilities do without control
    from mpnet.control.launcher import Launcher  # noqa: PLC0415 - likewise

    raise_limit(chosen.devices)  # before the first process inherits it
    launcher = Launcher()
    launcher.warm_up()  # it imports while this process does
    from mpnet.control import log  # noqa: PLC0415 - likewise
    from mpnet.control.reload import reload_when_told  # noqa: PLC0415 - likewise
    from mpnet.control.server import Control, Service  # noqa: PLC0415 - likewise
    from mpnet.control.services import listen, look_after  # noqa: PLC0415 - likewise
    from mpnet.control.systemd import tell_systemd  # noqa: PLC0415 - likewise
    from mpnet.rpc.unix_socket import release_unix  # noqa: PLC0415 - likewise

    log.configure(chosen.control.log_format, chosen.control.log_level)

    # From here on, not from when all devices are served: who asks meanwhile waits, and is not told of nobody.
    listener = listen(chosen.control)

    async def serve() -> None:
        services: list[Service] = [partial(look_after, listener=listener), reload_when_told, tell_systemd]
        await Control(chosen.devices, chosen.control, services, launcher, reread=reread).run()

    try:
        asyncio.run(serve())
    finally:
        if listener:
            release_unix(listener)
