"""Real parts of the newest Debian, for tests that run with the machine's own and with those."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mpnet.guest import parts

RELEASE = "qemu=testing,kernel=testing"
"""As MPNET_PARTS has it: the newest QEMU and kernel that Debian's mirrors have."""


NEWEST = pytest.mark.release(*RELEASE.split(","))
"""Marks a parameter that is RELEASE."""

OWN_AND_NEWEST = [pytest.param("", id="own"), pytest.param(RELEASE, id="newest", marks=NEWEST)]
"""Parameters for ``taken``."""


@contextmanager
def taken(release: str) -> Iterator[None]:
    """Take parts from another release, for as long as the block lasts; with "" they stay what they are."""
    with pytest.MonkeyPatch.context() as patch:
        if release:
            patch.setenv(parts.VARIABLE, release)
        yield
