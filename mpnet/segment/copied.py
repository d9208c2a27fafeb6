"""Another user's segment, for a reader who may read it, such as root: copied at each look and never mapped."""

import mmap
import os
import weakref
from typing import Self

from mpnet.errors import MpnetError
from mpnet.segment import layout
from mpnet.segment.segment import Segment, read_mark


class CopiedSegment(Segment):
    """What a segment held when it was last looked at.

    Its owner may cut the file short at any time, which would end by SIGBUS whoever had it mapped. Spills and logs
    are left out: no reader wants them.
    """

    @classmethod
    def of(cls, fd: int) -> Self:
        """Look at a segment by its descriptor, which the copy owns from here on.

        Raises:
            MpnetError: it is no segment, or one of another version of mpnet.
        """
        try:
            name, queue_pairs = read_mark(fd)
        except BaseException:
            os.close(fd)
            raise
        copied = cls(name, mmap.mmap(-1, layout.segment_bytes(queue_pairs)), queue_pairs)
        copied._source = fd
        weakref.finalize(copied, os.close, fd)
        copied.refresh()
        return copied

    _source: int

    def refresh(self) -> None:
        """Look again.

        Raises:
            MpnetError: it has become shorter.
        """
        pairs = self.queue_pairs
        traces = layout.trace_offset(pairs, 0)
        for begin, end in (0, layout.spill_offset(pairs, 0)), (traces, layout.segment_bytes(pairs)):
            with memoryview(self._memory) as whole, whole[begin:end] as part:
                if os.preadv(self._source, [part], begin) < end - begin:
                    raise MpnetError(f"the shared memory of device {self.name!r} was cut short")
