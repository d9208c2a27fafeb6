"""The sweeps that ship: to be run as they are, or copied and changed."""

from importlib import resources

from mpnet.errors import MpnetError

_FOLDER = resources.files("mpnet.experiment") / "sweeps"
_SUFFIX = ".toml"
START = "start"
"""The one that explains every key."""


def names() -> list[str]:
    """All there are."""
    return sorted(each.name.removesuffix(_SUFFIX) for each in _FOLDER.iterdir() if each.name.endswith(_SUFFIX))


def text(name: str) -> str:
    """A sweep's file.

    Raises:
        MpnetError: there is none of that name.
    """
    if name not in names():
        raise MpnetError(f"there is no template {name!r}", f"choose one of {', '.join(names())}")
    return (_FOLDER / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
