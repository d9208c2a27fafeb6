"""One setting: its value, its type and the place where it was written."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from mpnet.config.cpus import parse_cpus
from mpnet.config.place import FieldError, Place

_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was written."""

    value: Any
    place: Place


SettingMap = dict[str, Setting]
"""Settings by field name in Python's spelling; not every field need be there."""

Table = type[msgspec.Struct]
"""A struct whose fields are the settings; its encoded names are the keys users write."""


def keys(table: Table) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a table by the key users write."""
    return {field.encode_name: field for field in msgspec.structs.fields(table)}


def find_field(table: Table, key: str, place: Place) -> msgspec.structs.FieldInfo:
    """Find the field of a key.

    Raises:
        PlacedError: there is none; the nearest is suggested.
    """
    known = keys(table)
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else ""
    raise place.error(f"unknown key {key!r}, expected one of {', '.join(known)}", remedy)


def read_text(field: msgspec.structs.FieldInfo, text: str) -> Any:
    """Turn a word of a command line into the field's type.

    Raises:
        FieldError: the word is none of that type.
    """
    return _READERS[field.type](field, text)


def read_object(field: msgspec.structs.FieldInfo, value: Any) -> Any:
    """Turn a value of a TOML file into the field's type; processors and users may be a string as well as a list.

    Raises:
        FieldError: the value is none of that type.
    """
    if field.type == tuple[int, ...] and isinstance(value, str):
        return parse_cpus(value)
    if field.type == tuple[str, ...] and isinstance(value, str):
        return _words(field, value)
    try:
        return msgspec.convert(value, field.type)
    except msgspec.ValidationError as error:
        raise FieldError(field.name, f"{field.encode_name} is {value!r}: {error}".replace("`", "")) from None


def _string(_field: msgspec.structs.FieldInfo, text: str) -> str:
    return text


def _integer(field: msgspec.structs.FieldInfo, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise FieldError(field.name, f"{field.encode_name} is {text!r}, expected a whole number")
    return int(text)


def _switch(field: msgspec.structs.FieldInfo, text: str) -> bool:
    if text not in _SWITCH:
        raise FieldError(field.name, f"{field.encode_name} is {text!r}, expected 'on' or 'off'")
    return _SWITCH[text]


def _cpus(_field: msgspec.structs.FieldInfo, text: str) -> tuple[int, ...]:
    return parse_cpus(text)


def _words(_field: msgspec.structs.FieldInfo, text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


_READERS: Mapping[Any, Callable[[msgspec.structs.FieldInfo, str], Any]] = MappingProxyType(
    {
        str: _string,
        int: _integer,
        int | None: _integer,
        bool: _switch,
        tuple[int, ...]: _cpus,
        tuple[str, ...]: _words,
    }
)
