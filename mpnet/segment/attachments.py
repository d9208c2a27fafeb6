"""Segments for a reader that stays: devices come and go, and come back under the same name."""

from collections.abc import Collection

from mpnet.errors import MpnetError
from mpnet.segment import segment as segments
from mpnet.segment import shm
from mpnet.segment.copied import CopiedSegment
from mpnet.segment.segment import Segment


class Attachments:
    """The segments that are there: this user's mapped, others' copied at each look where they may be read.

    Attributes:
        refused: why a device that was found is not among the segments, by its name.

    Args:
        wanted: devices to look at; empty for all.
    """

    def __init__(self, wanted: Collection[str] = ()) -> None:
        self.refused: dict[str, MpnetError] = {}
        self._wanted = wanted
        self._attached: dict[str, tuple[int, Segment]] = {}

    def current(self) -> dict[str, Segment]:
        """Map what came since the last call, forget what went; segments by device.

        One of another version of mpnet, one that may not be read, or one that is made or removed in this moment,
        is left out.
        """
        found = {name: segments.identity(name) for name in segments.names() if self._is_wanted(name)}
        before, self._attached, self.refused = self._attached, {}, {}
        for name, identity in found.items():
            if identity is None:
                continue
            known = before.get(name)
            try:
                segment = known[1] if known is not None and known[0] == identity else _attach(name)
                if isinstance(segment, CopiedSegment):
                    segment.refresh()
            except MpnetError as error:
                self.refused[name] = error
            else:
                self._attached[name] = (identity, segment)
        return {name: segment for name, (_, segment) in self._attached.items()}

    def require(self) -> None:
        """Refuse to go on where there is nothing to see.

        Raises:
            MpnetError: a device that is wanted is not there or may not be read; or some are there, and of none
                may be read.
        """
        present = self.current()
        for name in self._wanted:
            if name not in present:
                raise self.refused.get(name) or _missing(name)
        if self.refused and not present:
            raise next(iter(self.refused.values()))

    def _is_wanted(self, name: str) -> bool:
        return not self._wanted or name in self._wanted


def _attach(name: str) -> Segment:
    try:
        return Segment.attach(name)
    except shm.ForeignError:
        owner = segments.owner(name)
        if owner is None:
            raise
        copied = CopiedSegment.of(segments.open_segment(name, owner=owner, read_only=True))
        if copied.name != name:
            raise
        return copied


def _missing(name: str) -> MpnetError:
    return shm.MissingError(
        f"there is no shared memory /{segments.PREFIX}{name}", "is the device served? see 'mpnet device list'"
    )
