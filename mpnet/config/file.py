"""The TOML file: one ``[control]`` table and a ``[[device]]`` table for each device."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.config.layer import Layer
from mpnet.config.place import FieldError, Place
from mpnet.config.setting import Setting, SettingMap, Table, find_field, read_object
from mpnet.errors import ConfigError

_HEADER = re.compile(r"\s*\[+\s*([\w-]+)\s*\]+\s*(?:#.*)?", re.ASCII)
_KEY = re.compile(r"""\s*["']?([^\s"'=]+)["']?\s*=\s*(.*?)\s*""")
_TABLES = ("control", "device")


class _Lines:
    """Finds the line of a key: ``tomllib`` does not tell it.

    A scan for headers and keys, blind to multi-line strings: where it finds nothing, the value stands for
    its line.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._places: dict[tuple[str, int, str], Place] = {}
        table, counts = "", dict.fromkeys(("", *_TABLES), -1)
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                table = header[1]
                counts[table] = counts.get(table, -1) + 1
                place = Place(f"{path}:{number}", line, header.start(1), header.end(1))
                self._places.setdefault((table, counts[table], ""), place)
            elif key := _KEY.fullmatch(line):
                place = Place(f"{path}:{number}", line, key.start(1), key.end(2))
                self._places.setdefault((table, max(counts.get(table, 0), 0), key[1]), place)

    def find(self, table: str, index: int, key: str = "") -> Place:
        """The place of a key's value in the n-th table of a name, or of the table's header."""
        default = Place.whole(str(self._path), f"[{table}] {key}".strip())
        return self._places.get((table, index, key), default)


def read_file(path: Path) -> Layer:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or a value of the wrong type;
            names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None
    lines = _Lines(path, text)
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


def _read_table(table: Table, values: Mapping[str, Any], lines: _Lines, where: tuple[str, int]) -> SettingMap:
    settings: SettingMap = {}
    for key, value in values.items():
        place = lines.find(*where, key)
        field = find_field(table, key, place)
        try:
            settings[field.name] = Setting(read_object(field, value), place)
        except FieldError as error:
            raise place.error(error.problem, error.remedy) from None
    return settings
