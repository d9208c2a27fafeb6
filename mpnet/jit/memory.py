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

import importlib
from collections.abc import Callable
from typing import Any

from mpnet.jit.compile import JIT

_make: Any = importlib.import_module(f"mpnet.jit.{'intrinsics' if JIT else 'interpreted'}")

load_u8: Callable[[int], int] = _make.loader(8)
load_u16: Callable[[int], int] = _make.loader(16)
load_u32: Callable[[int], int] = _make.loader(32)
load_i64: Callable[[int], int] = _make.loader(64)
load_acquire_u16: Callable[[int], int] = _make.loader(16, "acquire")
load_acquire_u32: Callable[[int], int] = _make.loader(32, "acquire")
load_acquire_i64: Callable[[int], int] = _make.loader(64, "acquire")
store_u8: Callable[[int, int], None] = _make.storer(8)
store_u16: Callable[[int, int], None] = _make.storer(16)
store_u32: Callable[[int, int], None] = _make.storer(32)
store_i64: Callable[[int, int], None] = _make.storer(64)
store_release_u16: Callable[[int, int], None] = _make.storer(16, "release")
store_release_u32: Callable[[int, int], None] = _make.storer(32, "release")
store_release_i64: Callable[[int, int], None] = _make.storer(64, "release")
copy: Callable[[int, int, int], None] = _make.copier()
"""``copy(target, source, size)``: copy ``size`` bytes between ranges that do not overlap."""
summand: Callable[[int, int], int] = _make.summand()
"""``summand(address, index)``: the index-th 32-bit word, only to be summed: it may be loaded twice."""
prefetch: Callable[[int], None] = _make.prefetcher(to_write=False)
"""``prefetch(address)``: have the cache line there on its way; any address will do, it is not accessed."""
prefetch_to_write: Callable[[int], None] = _make.prefetcher(to_write=True)
"""``prefetch_to_write(address)``: likewise, and taken from all other processors, as a store would do."""
fence: Callable[[], None] = _make.fencer()
"""``fence()``: no load after it is done before a store that stands ahead of it."""
