"""Device strings: ``id=net0,tap=tap0,socket=/run/mpnet/net0.sock,queue-pairs=4``.

The syntax is QEMU's: ``key=value`` words between commas, and a comma within a value is doubled.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from mpnet.config.cpus import format_cpus, parse_cpus
from mpnet.config.device import DeviceConfig
from mpnet.config.place import FieldError, Place
from mpnet.errors import ConfigError

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SWITCH = {"on": True, "off": False}
# Words end at a comma that is neither the first nor the second of a pair.
_WORD = re.compile(r"(?:[^,]|,,)*")

REQUIRED = ("id", "tap", "socket")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was written."""

    value: Any
    place: Place


Settings = dict[str, Setting]
"""Settings of one device by field name; not all fields need be there."""


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ConfigError(f"{text!r}, expected a whole number")
    return int(text)


def _switch(text: str) -> bool:
    if text not in _SWITCH:
        raise ConfigError(f"{text!r}, expected 'on' or 'off'")
    return _SWITCH[text]


_READERS: Mapping[Any, Callable[[str], Any]] = MappingProxyType(
    {str: str, int: _integer, bool: _switch, tuple[int, ...]: parse_cpus}
)
_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(DeviceConfig)}
KEYS = tuple(_FIELDS)
"""The words a device string may have, with dashes."""


def read_value(key: str, text: str) -> Any:
    """Turn the text of one setting into its field's type.

    Args:
        key: one of ``KEYS``.
        text: the value as written on a command line.

    Raises:
        ConfigError: the text is none of the type.
    """
    return _READERS[_FIELDS[key].type](text)


def field_name(key: str, place: Place) -> str:
    """Give the Python name of a setting.

    Raises:
        PlacedError: there is no such setting; the nearest is suggested.
    """
    if key in _FIELDS:
        return _FIELDS[key].name
    near = difflib.get_close_matches(key.lower().replace("_", "-"), KEYS, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else ""
    raise place.error(f"unknown key {key!r}, expected one of {', '.join(KEYS)}", remedy)


def parse_settings(text: str, source: str = "--device") -> Settings:
    """Read the words of a device string.

    Args:
        text: the string.
        source: what a person calls it in an error.

    Raises:
        PlacedError: a word is malformed, unknown, given twice or of the wrong type.
    """
    settings: Settings = {}
    start = 0
    while True:
        end = _WORD.match(text, start).end()  # type: ignore[union-attr]  # the pattern matches the empty string too
        key, setting = _parse_word(text, start, end, source)
        if key in settings:
            raise setting.place.error(f"{text[start:end]!r} gives a key a second time", "remove one of the two")
        settings[key] = setting
        if end == len(text):
            return settings
        start = end + 1


def _parse_word(text: str, start: int, end: int, source: str) -> tuple[str, Setting]:
    word = text[start:end]
    key, equals, value = word.partition("=")
    if not word:
        raise Place(source, text, start, end).error(
            "there is no key=value here", "remove the comma or add a word"
        )
    if not equals:
        near = difflib.get_close_matches(key, KEYS, n=1) or ["id"]
        raise Place(source, text, start, end).error(f"{word!r} is not key=value", f"write it as {near[0]}=…")
    name = field_name(key, Place(source, text, start, start + len(key)))
    place = Place(source, text, start + len(key) + 1, end)
    if not value:
        raise place.error(f"{key} has no value", f"give one after the '=' or leave {key} out")
    try:
        return name, Setting(read_value(key, value.replace(",,", ",")), place)
    except ConfigError as error:
        problem = error.problem if isinstance(error, FieldError) else f"{key} is {error.problem}"
        raise place.error(problem, error.remedy) from None


def build_device(settings: Settings, whole: Place) -> DeviceConfig:
    """Make a device of its settings.

    Args:
        settings: by field name.
        whole: where the device is described, for what is missing in it.

    Raises:
        PlacedError: a setting is missing or out of range; points at it.
    """
    missing = [name for name in REQUIRED if name not in settings]
    if missing:
        given = "".join(f",{name}=…" for name in missing)
        raise Place(whole.source, whole.line, whole.end, whole.end).error(
            f"the device has no {' and no '.join(missing)}", f"add {given}"
        )
    try:
        return DeviceConfig(**{name: setting.value for name, setting in settings.items()})
    except FieldError as error:
        place = settings[error.field].place if error.field in settings else whole
        raise place.error(error.problem, error.remedy) from None


def parse_device(text: str, source: str = "--device") -> DeviceConfig:
    """Read a device string.

    ``cpus`` takes numbers and ranges with ``+`` between them (``cpus=0-3+8``), as a comma ends the word;
    ``create`` and ``client`` take ``on`` or ``off``.

    Raises:
        PlacedError: names the problem, shows the string and points at the word.
    """
    return build_device(parse_settings(text, source), Place.whole(source, text))


def format_device(config: DeviceConfig) -> str:
    """Write the device string ``parse_device`` reads as ``config``; defaults are left out."""
    words = []
    for key, field in _FIELDS.items():
        value = getattr(config, field.name)
        if field.required or value != field.default:
            words.append(f"{key}={_format_value(value).replace(',', ',,')}")
    return ",".join(words)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return format_cpus(value)
    return str(value)
