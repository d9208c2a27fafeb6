"""Layers of settings: the file, the environment and the command line, each over the one before."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.device_string import build_device
from mpnet.config.place import FieldError, Place
from mpnet.config.setting import SettingMap
from mpnet.errors import ConfigError


@dataclass(slots=True)
class Layer:
    """What one source says.

    Attributes:
        control: settings of ``ControlConfig``.
        every_device: settings of ``DeviceConfig`` for all devices, those of other layers too.
        devices: settings of single devices by id; stronger than ``every_device``.
        places: where each of ``devices`` is described.
    """

    control: SettingMap = field(default_factory=dict)
    every_device: SettingMap = field(default_factory=dict)
    devices: dict[str, SettingMap] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def add_device(self, settings: SettingMap, place: Place) -> None:
        """Take a device into the layer.

        Args:
            settings: by field name, ``id`` among them.
            place: where it is described.

        Raises:
            PlacedError: it has no id, or the layer has a device of that id.
        """
        if "id" not in settings:
            raise place.error("the device has no id", "add id=…")
        name = settings["id"].value
        if name in self.devices:
            raise settings["id"].place.error(f"device {name!r} is described twice", "give each device its own id")
        self.devices[name] = settings
        self.places[name] = place


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``mpnet run`` is asked to do."""

    control: ControlConfig
    devices: tuple[DeviceConfig, ...]


def merge(layers: Sequence[Layer]) -> RunConfig:
    """Lay settings over each other, key by key and device by device.

    Args:
        layers: the weakest first.

    Raises:
        ConfigError: a setting is missing or out of range, or two devices share what they cannot.
    """
    control: SettingMap = {}
    ids: dict[str, Place] = {}
    for layer in layers:
        control |= layer.control
        for name, place in layer.places.items():
            ids.setdefault(name, place)
    devices = tuple(build_device(_merge_device(layers, name), place) for name, place in ids.items())
    settings = _build_control(control)
    _check_shared(devices)
    _check_control_socket(settings, devices)
    return RunConfig(control=settings, devices=devices)


def _merge_device(layers: Sequence[Layer], name: str) -> SettingMap:
    settings: SettingMap = {}
    for layer in layers:
        settings |= layer.every_device
        settings |= layer.devices.get(name, {})
    return settings


def _build_control(settings: SettingMap) -> ControlConfig:
    try:
        return ControlConfig(**{name: setting.value for name, setting in settings.items()})
    except FieldError as error:
        raise settings[error.field].place.error(error.problem, error.remedy) from None


def _check_shared(devices: Sequence[DeviceConfig]) -> None:
    for key in ("tap", "socket"):
        owners: dict[str, str] = {}
        for device in devices:
            value = getattr(device, key)
            if value and value in owners:
                raise ConfigError(
                    f"devices {owners[value]!r} and {device.id!r} have the same {key} {value}",
                    f"give each its own {key}",
                )
            owners[value] = device.id


def _check_control_socket(control: ControlConfig, devices: Sequence[DeviceConfig]) -> None:
    for device in devices:
        if device.socket == control.socket:
            raise ConfigError(
                f"device {device.id!r} and the management socket have the same path {device.socket}",
                "give each its own: socket=… of the device, --control-socket of mpnet",
            )
