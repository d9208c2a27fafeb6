"""Where the keys of a TOML file stand: ``tomllib`` does not tell it."""

import re
from pathlib import Path

from mpnet.config.place import Place

_HEADER = re.compile(r"\s*\[+\s*([\w-]+)\s*\]+\s*(?:#.*)?", re.ASCII)
_KEY = re.compile(r"""\s*["']?([^\s"'=]+)["']?\s*=\s*(.*?)\s*""")


class Lines:
    """Finds the line of a key.

    A scan for headers and keys, blind to multi-line strings: where it finds nothing, the value stands for
    its line.

    Args:
        path: of the file, for people.
        text: what is in it.
    """

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._places: dict[tuple[str, int, str], Place] = {}
        table, counts = "", dict[str, int]()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                table = header[1]
                counts[table] = counts.get(table, -1) + 1
                place = Place(f"{path}:{number}", line, header.start(1), header.end(1))
                self._places.setdefault((table, counts[table], ""), place)
            elif key := _KEY.fullmatch(line):
                place = Place(f"{path}:{number}", line, key.start(1), key.end(2))
                self._places.setdefault((table, counts.get(table, 0), key[1]), place)

    def find(self, table: str, index: int, key: str = "") -> Place:
        """The place of a key's value in the n-th table of a name, or of the table's header."""
        default = Place.whole(str(self._path), f"[{table}] {key}".strip())
        return self._places.get((table, index, key), default)
