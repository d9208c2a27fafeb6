"""Numba's cache of one function's machine code: a file for each kinds of arguments, checked before it is used.

Numba's own cache does not look at the sources of what a function calls, takes what it finds from whoever wrote
it, and ends the program at a file that is cut short or a disk that is full.
"""

import hashlib
import os
import pickle
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core import compiler, serialize, sigutils
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary

from mpnet.jit import cache

_rebuild: Any = compiler.CompileResult._rebuild  # noqa: SLF001 - as Numba's own cache does
_dumps: Any = serialize.dumps

used: list[str] = []
"""Names of the files that have been read or written."""
lost: list[str] = []
"""Names of those that could not be written."""


class Elsewhere(JITCodeLibrary):
    """Stands for a function that is called by its symbol: to be loaded before its callers.

    LLVM ends the process where a symbol is missing.
    """

    def __init__(self, codegen: Any, function: Callable[..., Any], kinds: tuple[Any, ...]) -> None:
        super().__init__(codegen, function.__qualname__)
        self.where = f"{function.__module__}:{function.__qualname__}", kinds

    def finalize(self) -> None:
        """Be ready to be linked, with nothing."""
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        return self._final_module


class NotKeptError(Exception):
    """Machine code is not there, and is not to be made here."""


class Kept(NullCache):
    """What is kept of one function; for Numba's dispatcher.

    Args:
        function: plain Python.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read machine code; None where there is none that can be used.

        Raises:
            NotKeptError: likewise, where none is to be compiled.
        """
        target_context.refresh()
        name = self._name(sig, target_context)
        for folder in cache.folders():
            data = cache.read(folder / name)
            if data is not None:
                used.append(name)
                self._keep_where_chosen(folder, name, data)
                elsewhere, code = pickle.loads(data)  # noqa: S301 - ours, by cache.read
                for function, kinds in elsewhere:
                    pkgutil.resolve_name(function).compile(kinds)
                return _rebuild(target_context, *pickle.loads(code))  # noqa: S301 - likewise
        if cache.LOAD_ONLY:
            raise NotKeptError(f"{self._function.__qualname__} is not compiled yet")
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Keep machine code, if it can be."""
        name, folder = self._name(sig, cres.target_context), cache.writable()
        libraries = cres.library._linking_libraries  # noqa: SLF001 - Numba tells of them nowhere else
        elsewhere = [library.where for library in libraries if isinstance(library, Elsewhere)]
        data = _dumps((elsewhere, _dumps(cres._reduce())))  # noqa: SLF001 - as Numba's own cache does
        kept = folder is not None and cache.write(folder / name, data)
        (used if kept else lost).append(name)

    @staticmethod
    def _keep_where_chosen(folder: Path, name: str, data: bytes) -> None:
        """Have all code in the folder that somebody chose, wherever it was found."""
        chosen = cache.writable() if os.environ.get(cache.CHOSEN) and not cache.LOAD_ONLY else None
        if chosen and chosen != folder and not cache.write(chosen / name, data):
            lost.append(name)

    def _name(self, sig: Any, target_context: Any) -> str:
        """A file's name: of the function, and of all that is not in the folder's."""
        function = self._function
        kinds, _ = sigutils.normalize_signature(sig)
        digest = hashlib.sha256(repr((kinds, target_context.codegen().magic_tuple())).encode())
        with suppress(OSError):  # what was typed in is in no file
            digest.update(Path(function.__code__.co_filename).read_bytes())
        digest.update(function.__code__.co_code)
        digest.update(_dumps([cell.cell_contents for cell in function.__closure__ or ()]))
        return f"{function.__module__}.{function.__qualname__}-{digest.hexdigest()[:20]}".replace(os.sep, "_")


def seal() -> None:
    """Note in the cache that what this process has used is all that workers run; where it is not noted yet."""
    folder = cache.writable()
    if folder and not lost and cache.find_whole() is None:
        cache.seal(folder, used)
