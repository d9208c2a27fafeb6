"""Descriptors are waited for whatever their numbers are."""

import fcntl
import os
import resource

from mpnet.ready import readable


def test_a_high_descriptor_is_waited_for() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 4096), limits[1]))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 2048)
    try:
        assert readable(high, seconds=0) == []
        os.write(writing, b"1")
        assert readable(high, seconds=0) == [high]
        assert readable(high, reading) == [high, reading]
    finally:
        for fd in (reading, writing, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
