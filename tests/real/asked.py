"""What of the machine a test asks for, found in its code: it, its fixtures and what these call.

Each module of this folder says in ``PARTS`` what its users run: parts of Debian by their names in
``mpnet.guest.parts``, and ``NETWORK``. A test, fixture or helper elsewhere says so by ``real("tshark")``.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import pytest

from mpnet.errors import MpnetError
from mpnet.guest.parts import GUEST

NETWORK = "network"
"""Interfaces and a network namespace: root, or a kernel that lets users have namespaces."""

ROOT = "root"
"""Rights that no user has, as to give files away."""

LINUX_GUEST = ("kernel", *GUEST)
"""What a Linux guest in QEMU is made of."""

_FOLDER = "tests.real."


def asked(item: pytest.Item) -> frozenset[str]:
    """Give the parts that a test runs, and NETWORK where it makes interfaces; none for a test of code alone.

    Those that it takes from another release are like "qemu=testing".
    """
    if not isinstance(item, pytest.Function):
        return frozenset()
    fixtures = item._fixtureinfo.name2fixturedefs.values()  # pytest tells it nowhere else
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    parts = asked_by([item.function, *given, *(each.func for definitions in fixtures for each in definitions)])
    return parts.union(*(marker.args for marker in item.iter_markers("release")))


_Function = TypeVar("_Function", bound=Callable[..., object])


def real(*parts: str) -> Callable[[_Function], _Function]:
    """Say of a test, a fixture's function or a helper that it runs parts of Debian."""

    def said(function: _Function) -> _Function:
        vars(function)["PARTS"] = parts
        return function

    return said


class Supply:
    """Parts that are had once, before any test; those that cannot be are told to the tests that ask for them.

    Args:
        require: installs parts, or raises MpnetError.
    """

    def __init__(self, require: Callable[[Iterable[str]], None]) -> None:
        self._require = require
        self._failures: dict[str, str] = {}

    def have(self, parts: Iterable[str]) -> None:
        """Have all that can be had."""
        names = sorted(set(parts) - {NETWORK, ROOT})
        try:
            self._require(names)
        except MpnetError:
            # One that is not there must not take the others along.
            for name in names:
                self._have_one(name)

    def lacking(self, parts: Iterable[str]) -> str:
        """Say why parts are not there; nothing where all are."""
        reasons = {self._failures[name] for name in parts if name in self._failures}
        return "\n".join(sorted(reasons))

    def _have_one(self, name: str) -> None:
        try:
            self._require([name])
        except MpnetError as error:
            self._failures[name] = f"{name}, of Debian, cannot be had: {error}"


def asked_by(roots: Iterable[Any]) -> frozenset[str]:
    """Collect what functions, and what they call of the tests' own, say that they run."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        function = inspect.unwrap(each) if callable(each) else each
        if isinstance(each, ModuleType):
            found.update(_said(each) if each.__name__.startswith(_FOLDER) else ())
        elif _is_ours(function):
            found.update(_said(function), _said(sys.modules.get(getattr(function, "__module__", ""))))
            waiting += _used(function)
    return frozenset(found)


def _said(each: Any) -> tuple[str, ...]:
    parts: tuple[str, ...] = getattr(each, "__dict__", {}).get("PARTS", ())
    return parts


def _used(each: Any) -> Iterator[Any]:
    if isinstance(each, type):
        yield from (*vars(each).values(), *each.__bases__)
    elif isinstance(each, property):
        yield each.fget
    elif isinstance(each, FunctionType):
        yield from _named(each)


def _is_ours(each: Any) -> bool:
    if isinstance(each, property):
        return True
    return str(getattr(each, "__module__", "")).startswith("tests.")


def _named(function: FunctionType) -> Iterator[Any]:
    """Give what a function's code names: globals, what is in modules among them, and what it closes over."""
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        each = function.__globals__[name]
        yield each
        if isinstance(each, ModuleType) and each.__name__.startswith(_FOLDER):
            yield from (vars(each)[inner] for inner in names & vars(each).keys())
    yield from (cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell))
    yield from function.__defaults__ or ()


def _is_filled(cell: Any) -> bool:
    try:
        return bool(cell.cell_contents is not None)
    except ValueError:
        return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
