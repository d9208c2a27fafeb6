"""Segments for a reader that stays: devices come and go, and come back under the same name."""

from collections.abc import Collection

from mpnet.errors import MpnetError
from mpnet.segment import segment as segments
from mpnet.segment.segment import Segment


class Attachments:
    """The segments that are there.

    Args:
        wanted: devices to look at; empty for all.
    """

    def __init__(self, wanted: Collection[str] = ()) -> None:
        self._wanted = wanted
        self._attached: dict[str, tuple[int, Segment]] = {}

    def current(self) -> dict[str, Segment]:
        """Map what came since the last call, forget what went; segments by device.

        A segment of another version of mpnet, or one that is removed in this moment, is left out.
        """
        found = {name: segments.identity(name) for name in segments.names() if self._is_wanted(name)}
        attached = {}
        for name, identity in found.items():
            if identity is None:
                continue
            known = self._attached.get(name)
            if known is not None and known[0] == identity:
                attached[name] = known
                continue
            try:
                attached[name] = (identity, Segment.attach(name))
            except (MpnetError, ValueError):  # ValueError: control has made it and not yet given it its size
                continue
        self._attached = attached
        return {name: segment for name, (_, segment) in attached.items()}

    def _is_wanted(self, name: str) -> bool:
        return not self._wanted or name in self._wanted
