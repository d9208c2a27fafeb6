"""What control tells a fork server, and what that says.

Control sends ``Fork``, each with two descriptors: the worker's end of its channel to control, and the device's
segment. Each is answered by one ``Forked``, with a pidfd, or one ``NotForked``, in turn. ``Ready`` and ``Ended``
come unasked.
"""

import msgspec


class Fork(msgspec.Struct, tag=True):
    """Fork a worker for ``slot`` of ``device``."""

    device: str
    slot: int


class Ready(msgspec.Struct, tag=True):
    """All that workers need is loaded; what is asked from now on is done at once."""


class Forked(msgspec.Struct, tag=True):
    """The worker runs; its pidfd comes along."""

    pid: int


class NotForked(msgspec.Struct, tag=True):
    """No process could be made: an ``errno``."""

    error: int


class Ended(msgspec.Struct, tag=True):
    """A worker is gone: its exit status, or minus the signal that ended it."""

    pid: int
    status: int


Report = Ready | Forked | NotForked | Ended
