"""The segment's header, which tells control, its successor and later workers what the device is and whose."""

import mmap

from mpnet.segment.layout import PAGE, rings_offset
from mpnet.workers.isolation.libc import call


def protect(segment_address: int) -> None:
    """Have this process only read it: nothing that a worker is left with changes that, without the descriptor.

    On machines with larger pages it shares one with what workers write, and stays as it is.
    """
    if mmap.PAGESIZE <= PAGE:
        call("mprotect", segment_address, rings_offset(), mmap.PROT_READ)
