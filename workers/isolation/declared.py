"""What a worker may ask the kernel for: what the modules it runs declare."""

from types import ModuleType

from mpnet.jit import syscalls, uring_setup
from mpnet.jit.system_calls import Call
from mpnet.rpc import channel
from mpnet.workers import memory, rings, watch, worker
from mpnet.workers.isolation import runtime

MODULES: tuple[ModuleType, ...] = (syscalls, channel, memory, rings, watch, worker, uring_setup, runtime)
"""The data path first: those calls are made in each burst."""


def calls() -> list[Call]:
    """Every declared call, those of each burst first."""
    return list(dict.fromkeys(call for module in MODULES for call in module.SYSTEM_CALLS))
