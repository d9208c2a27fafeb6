"""Device strings: ``id=net0,tap=tap0,socket=/run/mpnet/net0.sock,queue-pairs=4``.

The syntax is QEMU's: ``key=value`` words between commas, and a comma within a value is doubled.
"""

import difflib
import re
from dataclasses import replace
from typing import Any

from mpnet.config.cpus import format_cpus
from mpnet.config.device import TAP, DeviceConfig
from mpnet.config.place import FieldError, Place
from mpnet.config.setting import Setting, SettingMap, find_field, keys, read_text

# A word ends at a comma that is not doubled.
_WORD = re.compile(r"(?:[^,]|,,)*")


def parse_settings(text: str, source: str = "--device") -> SettingMap:
    """Read the words of a device string; none need be there.

    Args:
        text: the string.
        source: what a person calls it in an error.

    Raises:
        PlacedError: a word is malformed, unknown, given twice or of the wrong type.
    """
    settings: SettingMap = {}
    start = 0
    while True:
        match = _WORD.match(text, start)
        end = match.end() if match else start
        name, setting = _parse_word(Place(source, text, start, end))
        if name in settings:
            raise setting.place.error(f"{text[start:end]!r} gives its key a second time", "remove one of the two")
        settings[name] = setting
        if end == len(text):
            return settings
        start = end + 1


def _parse_word(word: Place) -> tuple[str, Setting]:
    text = word.line[word.start : word.end]
    key, equals, value = text.partition("=")
    if not text:
        raise word.error("there is no key=value here", "remove the comma or add a word")
    if not equals:
        near = difflib.get_close_matches(key, keys(DeviceConfig), n=1) or ["id"]
        raise word.error(f"{text!r} is not key=value", f"write it as {near[0]}=…")
    field = find_field(DeviceConfig, key, replace(word, end=word.start + len(key)))
    place = replace(word, start=word.start + len(key) + 1)
    if not value:
        raise place.error(f"{key} has no value", f"give one after the '=' or leave {key} out")
    try:
        return field.name, Setting(read_text(field, value.replace(",,", ",")), place)
    except FieldError as error:
        raise place.error(error.problem, error.remedy) from None


def build_device(settings: SettingMap, whole: Place) -> DeviceConfig:
    """Make a device of its settings.

    Args:
        settings: by field name.
        whole: where the device is described, for what is missing in it.

    Raises:
        PlacedError: a setting is missing or out of range; points at it.
    """
    missing = [key for key in _required(settings) if key not in settings]
    if missing:
        place = replace(whole, start=whole.end)
        raise place.error(
            f"the device has no {' and no '.join(missing)}", "add " + " and ".join(f"{key}=…" for key in missing)
        )
    try:
        return DeviceConfig(**{name: setting.value for name, setting in settings.items()})
    except FieldError as error:
        place = settings[error.field].place if error.field in settings else whole
        raise place.error(error.problem, error.remedy) from None


def _required(settings: SettingMap) -> list[str]:
    """Keys that must be there, in order; what is no setting of its own has its default."""
    backend = settings["backend"].value if "backend" in settings else TAP
    fields = keys(DeviceConfig).items()
    return [key for key, field in fields if field.required or (key == "tap" and backend == TAP)]


def parse_device(text: str, source: str = "--device") -> DeviceConfig:
    """Read a device string.

    ``cpus`` takes numbers and ranges with ``+`` between them (``cpus=0-3+8``), as a comma ends the word;
    so does ``users`` with names and numbers of users;
    ``create``, ``gro``, ``gso`` and ``client`` take ``on`` or ``off``.

    Raises:
        PlacedError: names the problem, shows the string and points at the word.
    """
    return build_device(parse_settings(text, source), Place.whole(source, text))


def format_device(config: DeviceConfig) -> str:
    """Write the device string ``parse_device`` reads as ``config``; defaults are left out."""
    words = []
    for key, field in keys(DeviceConfig).items():
        value = getattr(config, field.name)
        if field.required or value != field.default:
            words.append(f"{key}={_format_value(value).replace(',', ',,')}")
    return ",".join(words)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "+".join(value) if isinstance(value[0], str) else format_cpus(value)
    return str(value)
