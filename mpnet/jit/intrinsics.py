"""``mpnet.jit.memory`` compiled: LLVM's instructions for loads, stores, copies and fences."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_raw_memcpy: Any = cgutils.raw_memcpy
_function: Any = cgutils.get_or_insert_function
_intrinsic: Any = intrinsic  # as Numba types it, what it makes cannot be called from Python
_NUMBA_TYPES: dict[str, Any] = {"i": types.int32, "l": types.int64}


def external(name: str, result: str, arguments: str) -> Callable[..., int]:
    """The C library's function: ``i`` is an int, ``l`` a long or a pointer."""
    signature = _NUMBA_TYPES[result](*(_NUMBA_TYPES[code] for code in arguments))
    function: Callable[..., int] = types.ExternalFunction(name, signature)
    return function


def _pointer(builder: Any, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def loader(bits: int, ordering: str = "monotonic") -> Callable[[int], int]:
    """A load of ``bits`` bits, done exactly once; with a stronger ordering it must be naturally aligned."""

    @_intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], bits)
            value = builder.load_atomic(pointer, ordering, bits // 8)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.int64(types.int64), codegen

    typed: Callable[[int], int] = load
    return typed


def storer(bits: int, ordering: str = "") -> Callable[[int, int], None]:
    """A store of the low ``bits`` bits; with an ordering it is atomic and must be naturally aligned."""

    @_intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], bits)
            low = args[1] if bits == 64 else builder.trunc(args[1], ir.IntType(bits))
            if ordering:
                builder.store_atomic(low, pointer, ordering, bits // 8)
            else:
                builder.store(low, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    typed: Callable[[int, int], None] = store
    return typed


def copier() -> Callable[[int, int, int], None]:
    """A call of the C library's memcpy, or less."""

    @_intrinsic
    def copy_bytes(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, from_ = (_pointer(builder, args[i], 8) for i in range(2))
            _raw_memcpy(builder, to, from_, args[2], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    typed: Callable[[int, int, int], None] = copy_bytes
    return typed


def summand() -> Callable[[int, int], int]:
    """A plain load, the address in a form that LLVM can make a vector of."""

    @_intrinsic
    def load_summand(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = builder.gep(_pointer(builder, args[0], 32), [args[1]])
            return builder.zext(builder.load(element, align=1), ir.IntType(64))

        return types.int64(types.int64, types.int64), codegen

    typed: Callable[[int, int], int] = load_summand
    return typed


def prefetcher(*, to_write: bool) -> Callable[[int], None]:
    """A hint to the cache."""

    @_intrinsic
    def prefetch_line(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
            function = _function(builder.module, kind, "llvm.prefetch.p0")
            keep, of_data = word(3), word(1)
            builder.call(function, [_pointer(builder, args[0], 8), word(int(to_write)), keep, of_data])
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    typed: Callable[[int], None] = prefetch_line
    return typed


def fencer() -> Callable[[], None]:
    """A full fence."""

    @_intrinsic
    def full_fence(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    typed: Callable[[], None] = full_fence
    return typed
