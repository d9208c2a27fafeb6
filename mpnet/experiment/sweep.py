"""A sweep: the file that says what is varied, how often it is repeated and for how long it is measured."""

import hashlib
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mpnet.config.lines import Lines
from mpnet.config.place import FieldError, Place
from mpnet.config.setting import find_field, keys, read_object
from mpnet.errors import ConfigError
from mpnet.experiment.factors import Factors, label
from mpnet.experiment.possible import ImpossibleError

MAX_TRIALS = 100_000
_TABLES = ("sweep", "fixed", "factors", "trial")
_HINT = "[sweep] says how, [fixed] what stays, [factors] what varies; [[trial]] lists trials one by one"


class Design(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The table ``[sweep]``.

    Attributes:
        name: of the experiment; titles the report.
        question: what it shall answer.
        replicates: how often each combination is tried, each time in a block of its own.
        seconds: that each trial is measured for.
        warm_up: seconds of the same work before that, which do not count.
        seed: of the order within each block.
        skip_impossible: leave out combinations that no device can have, as more workers than queue pairs.

    Raises:
        FieldError: a value out of range.
    """

    name: str = "experiment"
    question: str = ""
    replicates: int = 5
    seconds: float = 2.0
    warm_up: float = 0.5
    seed: int = 1
    skip_impossible: bool = False

    def __post_init__(self) -> None:
        for field, low, high in (
            ("replicates", 1, 1000),
            ("seconds", 0.01, 3600.0),
            ("warm_up", 0.0, 3600.0),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise FieldError(field, f"{field.replace('_', '-')} is {value:g}, expected {low:g} to {high:g}")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that was read and found sound.

    Attributes:
        design: how it is run.
        combinations: each different set of factors, once.
        text: the file, as it was written.
    """

    design: Design
    combinations: tuple[Factors, ...]
    text: str

    @property
    def digest(self) -> str:
        """Tells whether two files are the same."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read(path: Path) -> Sweep:
    """Read a sweep's file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or something in it is unknown, of the wrong type, out of
            range or does not go together; names file, line and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of other systems mark UTF-8
    except OSError as error:
        raise ConfigError(
            f"cannot read the sweep {path}: {error.strerror}", f"'mpnet experiment new {path}' writes one"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: {error}", "a sweep is a TOML file in UTF-8") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Sweep:
    """Read a sweep's text; ``path`` is what a person calls it. Raises as ``read``."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not a TOML file: {error}", "see docs/experiments.md for one that is"
        ) from None
    reader = _Reader(document, Lines(path, text))
    reader.check_tables()
    design = reader.design()
    return Sweep(design, reader.combinations(design), text)


@dataclass(frozen=True, slots=True)
class _Level:
    """A value of one factor and where it was written."""

    value: Any
    place: Place


_Choice = dict[str, _Level]
"""One value for each of some factors, by the field's name."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a document that is TOML, and points at what is wrong in it."""

    document: dict[str, Any]
    lines: Lines

    def check_tables(self) -> None:
        for name, value in self.document.items():
            if name not in _TABLES:
                is_table = isinstance(value, dict | list)
                place = self.lines.find(name, 0) if is_table else self.lines.find("", 0, name)
                raise place.error(f"unknown table or key {name!r}", _HINT)
            if name == "trial":
                if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
                    raise self.lines.find(name, 0).error("trial is no list of tables", "write [[trial]]")
            elif not isinstance(value, dict):
                raise self.lines.find("", 0, name).error(f"{name} is no table", f"write [{name}]")

    def design(self) -> Design:
        places, values = {}, {}
        for key, value in self.document.get("sweep", {}).items():
            place = self.lines.find("sweep", 0, key)
            field = find_field(Design, key, place)
            places[field.name] = place
            values[field.name] = _read(field, value, place)
        try:
            return Design(**values)
        except FieldError as error:
            raise places[error.field].error(error.problem, error.remedy) from None

    def combinations(self, design: Design) -> tuple[Factors, ...]:
        """Every trial of the list, or a single empty one, with every combination of the factors' levels."""
        fixed = self._table("fixed", 0, self.document.get("fixed", {}))
        listed = [
            self._table("trial", index, table) for index, table in enumerate(self.document.get("trial", []))
        ] or [_Choice()]
        crossed = list(self._crossed())
        if len(listed) * len(crossed) > MAX_TRIALS:
            raise self.lines.find("factors", 0).error(
                f"{len(listed) * len(crossed)} combinations, expected {MAX_TRIALS} at most", "vary less at a time"
            )
        found: dict[Factors, None] = {}
        for one, other in itertools.product(listed, crossed):
            factors = self._combine(fixed, one, other, skip=design.skip_impossible)
            if factors is not None:
                found[factors] = None
        if "seconds" in self.document.get("sweep", {}) and design.seconds % 1:
            for factors in found:
                self._check_clock(factors, design.seconds)
        if not found:
            raise self.lines.find("factors", 0).error("no combination is possible", "mend or vary something")
        return tuple(found)

    def _check_clock(self, factors: Factors, seconds: float) -> None:
        if factors.driver == "qemu":
            raise self.lines.find("sweep", 0, "seconds").error(
                f"seconds is {seconds:g}, but driver qemu measures whole seconds, as its guest's tools do",
                f"seconds = {max(1, round(seconds))}",
            )

    def _table(self, table: str, index: int, values: Mapping[str, Any]) -> _Choice:
        choice = _Choice()
        for key, value in values.items():
            place = self.lines.find(table, index, key)
            field = find_field(Factors, key, place)
            if isinstance(value, list):
                raise place.error(f"{key} is a list, expected one value", "lists of levels stand in [factors]")
            choice[field.name] = _Level(_read(field, value, place), place)
        return choice

    def _crossed(self) -> Iterator[_Choice]:
        levels: list[list[tuple[str, _Level]]] = []
        for key, values in self.document.get("factors", {}).items():
            place = self.lines.find("factors", 0, key)
            field = find_field(Factors, key, place)
            if not isinstance(values, list) or not values:
                raise place.error(f"{key} is no list of levels", f"write {key} = [ … ], or put it into [fixed]")
            read_values = [_read(field, value, place) for value in values]
            for value in read_values:
                if read_values.count(value) > 1:
                    raise place.error(f"{key} has the level {label(value)} twice", "remove one of the two")
            levels.append([(field.name, _Level(value, place)) for value in read_values])
        return map(dict, itertools.product(*levels))

    def _combine(self, *choices: _Choice, skip: bool) -> Factors | None:
        """All choices as one; None where it is impossible and such are to be skipped."""
        whole = _Choice()
        for choice in choices:
            for name, level in choice.items():
                if name in whole:
                    key = name.replace("_", "-")
                    raise level.place.error(
                        f"{key} is given a second time: see {whole[name].place.source}", "remove one of the two"
                    )
                whole[name] = level
        try:
            return Factors(**{name: level.value for name, level in whole.items()})
        except FieldError as error:
            impossible = isinstance(error, ImpossibleError)
            if impossible and skip:
                return None
            place = whole[error.field].place if error.field in whole else self.lines.find("factors", 0)
            if not impossible:
                raise place.error(error.problem, error.remedy) from None
            shown = ", ".join(f"{name.replace('_', '-')}={label(level.value)}" for name, level in whole.items())
            raise place.error(
                f"{error.problem}; in the combination {shown}",
                " ".join(
                    (error.remedy, "skip-impossible = true in [sweep] leaves such combinations out")
                ).strip(),
            ) from None


def _read(field: msgspec.structs.FieldInfo, value: Any, place: Place) -> Any:
    try:
        return read_object(field, value)
    except FieldError as error:
        raise place.error(error.problem, error.remedy) from None


def known() -> list[str]:
    """Names of all factors, as users write them."""
    return list(keys(Factors))
