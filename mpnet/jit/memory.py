"""Raw memory: loads, stores, copies and fences at integer addresses.

These are the only accesses to memory that Python does not own. None of them checks anything: the caller states
the bound that makes the access safe. Loads zero-extend except ``load_i64``, which is the 64-bit one.

A plain load of LLVM's may be done twice, and the other side may write in between: what was checked would not
be what is used. Every load here is atomic at least (``monotonic``), which costs nothing and is done once; only
``summand`` is not, because sums are made of vectors.

Compiled, each is one machine instruction, or a call of the C library's ``memcpy``. Acquire and release order it
against other accesses as C11 does; ``fence`` is the full fence that the store-then-load of notification
suppression needs on every machine, x86 included (VIRTIO 2.7.7.2, 2.7.10).
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpnet.jit.compile import JIT

Load = Callable[[int], int]
Store = Callable[[int, int], None]
Copy = Callable[[int, int, int], None]
Fence = Callable[[], None]

_raw_memcpy: Any = cgutils.raw_memcpy
_function: Any = cgutils.get_or_insert_function
_CTYPES: dict[int, Any] = {
    8: ctypes.c_uint8,
    16: ctypes.c_uint16,
    32: ctypes.c_uint32,
    64: ctypes.c_int64,
}
_fence_lock = threading.Lock()
_intrinsic: Any = intrinsic  # as Numba types it, what it makes cannot be called from Python


def _pointer(builder: Any, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def _loader(bits: int, ordering: str = "monotonic") -> Load:
    """A load of ``bits`` bits, done exactly once; with a stronger ordering it must be naturally aligned."""
    if not JIT:
        ctype = _CTYPES[bits]
        return lambda address: int(ctype.from_address(int(address)).value)

    @_intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], bits)
            value = builder.load_atomic(pointer, ordering, bits // 8)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return types.int64(types.int64), codegen

    typed: Load = load
    return typed


def _storer(bits: int, ordering: str = "") -> Store:
    """A store of the low ``bits`` bits; with an ordering it is atomic and must be naturally aligned."""
    if not JIT:
        ctype = _CTYPES[bits]

        def store_interpreted(address: int, value: int) -> None:
            ctype.from_address(int(address)).value = int(value)

        return store_interpreted

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

    typed: Store = store
    return typed


def _copier() -> Copy:
    if not JIT:

        def copy_interpreted(target: int, source: int, size: int) -> None:
            ctypes.memmove(int(target), int(source), int(size))

        return copy_interpreted

    @_intrinsic
    def copy_bytes(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, from_ = (_pointer(builder, args[i], 8) for i in range(2))
            _raw_memcpy(builder, to, from_, args[2], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), codegen

    typed: Copy = copy_bytes
    return typed


def _summand() -> Callable[[int, int], int]:
    """A plain load, the address in a form that LLVM can make a vector of."""
    if not JIT:
        return lambda address, index: int(ctypes.c_uint32.from_address(int(address) + 4 * int(index)).value)

    @_intrinsic
    def load_summand(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = builder.gep(_pointer(builder, args[0], 32), [args[1]])
            return builder.zext(builder.load(element, align=1), ir.IntType(64))

        return types.int64(types.int64, types.int64), codegen

    typed: Callable[[int, int], int] = load_summand
    return typed


def _prefetcher(*, to_write: bool) -> Callable[[int], None]:
    if not JIT:
        return lambda _address: None

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


def _fencer() -> Fence:
    if not JIT:

        def fence_interpreted() -> None:
            # Taking a lock is a locked instruction, which is a full fence on x86 and ordered enough elsewhere.
            with _fence_lock:
                pass

        return fence_interpreted

    @_intrinsic
    def full_fence(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), codegen

    typed: Fence = full_fence
    return typed


load_u8 = _loader(8)
load_u16 = _loader(16)
load_u32 = _loader(32)
load_i64 = _loader(64)
load_acquire_u16 = _loader(16, "acquire")
load_acquire_u32 = _loader(32, "acquire")
load_acquire_i64 = _loader(64, "acquire")
store_u8 = _storer(8)
store_u16 = _storer(16)
store_u32 = _storer(32)
store_i64 = _storer(64)
store_release_u16 = _storer(16, "release")
store_release_u32 = _storer(32, "release")
store_release_i64 = _storer(64, "release")
copy = _copier()
"""``copy(target, source, size)``: copy ``size`` bytes between ranges that do not overlap."""
summand = _summand()
"""``summand(address, index)``: the index-th 32-bit word, only to be summed: it may be loaded twice."""
prefetch = _prefetcher(to_write=False)
"""``prefetch(address)``: have the cache line there on its way; any address will do, it is not accessed."""
prefetch_to_write = _prefetcher(to_write=True)
"""``prefetch_to_write(address)``: likewise, and taken from all other processors, as a store would do."""
fence = _fencer()
"""``fence()``: no load after it is done before a store that stands ahead of it."""
