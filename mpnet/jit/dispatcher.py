"""How Numba compiles: each function's Python once, and machine code only for what Python or several others call.

Numba makes a library of every function: optimised, made machine code, and then linked into each caller's, where
all of that is done again with the caller's own; what stands at the bottom is done as often as it has callers
above. Here a function that compiled code calls is a *part*: LLVM's intermediate code, which is optimised and made
machine code where it ends up, once. That halves the time.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numba
from numba.core import compiler, sigutils, types, typing
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock

from mpnet.jit import perf
from mpnet.jit.kept import Elsewhere, Kept

Function = TypeVar("Function", bound=Callable[..., Any])

progress: Callable[[], None] = lambda: None  # noqa: E731 - replaced by who shows it
"""Called once for each function whose Python has been compiled."""
_unliteral: Any = types.unliteral  # untyped in Numba
_typing: Any = typing


def jitted(function: Function, *, apart: bool = False, **options: bool) -> Function:
    """Give Numba's dispatcher of a function, which is called as that is.

    Args:
        function: plain Python.
        apart: compiled callers have its address, and it is no part of them.
        options: of ``numba.njit``.
    """
    njit: Any = numba.njit
    dispatcher = njit(nogil=True, error_model="numpy", _nrt=False, **options)(function)
    dispatcher._cache = Kept(function)  # noqa: SLF001 - Numba has no other way to be given one
    calls = _Apart(dispatcher) if apart else _Parts(dispatcher)
    dispatcher.get_call_template = calls.template
    dispatcher.get_overload = calls.key
    perf.note(dispatcher)
    typed: Function = dispatcher
    return typed


class _Calls:
    """How compiled code calls a function: what Numba asks of its dispatcher.

    There is one for each kinds of arguments, whatever constants they are. Numba would compile one for each, and
    for what a variable is before its loop: every third of all.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._signatures: dict[tuple[Any, ...], Any] = {}

    def template(self, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Numba's template of a call; with the function compiled, if it was not."""
        fold = self._dispatcher._compiler.fold_argument_types  # noqa: SLF001 - as Numba's own does
        pysig, folded = fold([_unliteral(each) for each in arguments], keywords)
        kinds = tuple(folded)
        if kinds not in self._signatures:
            with global_compiler_lock:
                self._signatures[kinds] = self._compile(kinds)
        name = self._dispatcher.py_func.__name__
        signatures = list(self._signatures.values())
        return _typing.make_concrete_template(name, key=name, signatures=signatures), pysig, folded, {}

    def key(self, signature: Any) -> Any:
        """What ``_insert`` has told Numba's lowering."""
        kinds, _ = sigutils.normalize_signature(signature)
        return (self, tuple(_unliteral(each) for each in kinds))

    def _insert(self, kinds: tuple[Any, ...], result: Any, libraries: list[Any]) -> Any:
        self._dispatcher.targetctx.insert_user_function((self, kinds), result.fndesc, libraries)
        return result.signature

    def _compile(self, kinds: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class _Apart(_Calls):
    """By a symbol, which LLVM's engine finds in the function's own library."""

    def _compile(self, kinds: tuple[Any, ...]) -> Any:
        dispatcher = self._dispatcher
        dispatcher.compile(kinds)
        mark = Elsewhere(dispatcher.targetctx.codegen(), dispatcher.py_func, kinds)
        return self._insert(kinds, dispatcher.overloads[kinds], [mark])


class _Parts(_Calls):
    """By linking its intermediate code to the caller's."""

    def _compile(self, kinds: tuple[Any, ...]) -> Any:
        dispatcher = self._dispatcher
        flags: Any = compiler.Flags()
        dispatcher._compiler.targetdescr.options.parse_as_flags(flags, dispatcher.targetoptions)  # noqa: SLF001 - as above
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        part = _Part(dispatcher.targetctx.codegen(), dispatcher.py_func.__qualname__)
        compile_extra: Any = compiler.compile_extra
        result = compile_extra(
            dispatcher.typingctx, dispatcher.targetctx, dispatcher.py_func, kinds, None, flags, {}, library=part
        )
        progress()
        return self._insert(kinds, result, part.all_it_takes())


class _Part(JITCodeLibrary):
    """Intermediate code of one function: nothing is linked to it, and it is made machine code elsewhere."""

    def add_linking_library(self, library: Any) -> None:
        """Remember what it calls."""
        self._linking_libraries.append(library)

    def finalize(self) -> None:
        """Be ready to be linked."""
        self._raise_if_finalized()
        self._finalized = True

    def all_it_takes(self) -> list[Any]:
        """This and all that it calls, and so on."""
        return list(dict.fromkeys([self, *self._linking_libraries]))
