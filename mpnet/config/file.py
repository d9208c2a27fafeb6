"""The TOML file: one ``[control]`` table and a ``[[device]]`` table for each device."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import Layer
from mpnet.config.lines import Lines
from mpnet.config.place import FieldError
from mpnet.config.setting import Setting, SettingMap, Table, find_field, read_object
from mpnet.errors import ConfigError

_TABLES = ("control", "device")


def read_file(path: Path) -> Layer:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a value of the wrong type;
            names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of other systems mark UTF-8
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None
    lines = Lines(path, text)
    for name, value in document.items():
        if name not in _TABLES:
            place = lines.find(name, 0) if isinstance(value, dict | list) else lines.find("", 0, name)
            raise place.error(
                f"unknown table or key {name!r}", "settings stand in [control] or in one [[device]] per device"
            )
    control, devices = document.get("control", {}), document.get("device", [])
    if not isinstance(control, dict):
        raise lines.find("", 0, "control").error("control is no table", "write [control] above its settings")
    if not isinstance(devices, list) or not all(isinstance(device, dict) for device in devices):
        raise lines.find("device", 0).error("device is no list of tables", "write [[device]], in double brackets")
    layer = Layer(control=_read_table(ControlConfig, control, lines, ("control", 0)))
    for index, device in enumerate(devices):
        layer.add_device(_read_table(DeviceConfig, device, lines, ("device", index)), lines.find("device", index))
    return layer


def _read_table(table: Table, values: Mapping[str, Any], lines: Lines, where: tuple[str, int]) -> SettingMap:
    settings: SettingMap = {}
    for key, value in values.items():
        place = lines.find(*where, key)
        field = find_field(table, key, place)
        try:
            settings[field.name] = Setting(read_object(field, value), place)
        except FieldError as error:
            raise place.error(error.problem, error.remedy) from None
    return settings
