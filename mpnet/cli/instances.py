"""The control processes that run on this machine: an instance under systemd has a control socket of its own."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

from mpnet.errors import MpnetError
from mpnet.rpc.management import Client, NobodyListensError, default_socket_path

_SYSTEM_FOLDER = Path("/run/mpnet")
_NAMES = ("control.sock", "*.control.sock")


@dataclass
class Instances:
    """What was found; a context that closes the connections.

    Attributes:
        clients: connections to those that this user may ask, by their sockets.
        refused: why others may not be asked.
    """

    clients: dict[Path, Client] = field(default_factory=dict)
    refused: dict[Path, MpnetError] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def find(cls) -> Self:
        """Connect to all that listen where control sockets are."""
        found = cls()
        for path in _paths():
            try:
                found.clients[path] = found._stack.enter_context(Client(path))
            except NobodyListensError:
                continue
            except MpnetError as error:
                found.refused[path] = error
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask_all(self, method: str) -> list[Any]:
        """Ask each of them for a list; gives all lists' entries.

        Raises:
            MpnetError: there is none that may be asked.
        """
        self._require()
        entries = []
        for path, client in list(self.clients.items()):
            try:
                entries += client.call(method)
            except MpnetError as error:
                self.refused[path] = error
                del self.clients[path]
        self._require()
        for path, reason in self.refused.items():
            click.echo(f"mpnet: warning: {path} is left out: {reason}", err=True)
        return entries

    def choose(self, device: str | None) -> Path:
        """The socket of the one that is meant: that serves ``device``, or the only one there is.

        Raises:
            MpnetError: there is none, or it cannot be told which.
        """
        self._require()
        if len(self.clients) == 1 and not self.refused:
            return next(iter(self.clients))
        if device is None:
            return self._only()
        known = []
        for path, client in self.clients.items():
            devices = client.call("control.show")["devices"]
            if device in devices:
                return path
            known += devices
        raise MpnetError(
            f"no control process that may be asked serves a device {device!r}; they serve: {', '.join(known)}",
            "; ".join(map(str, self.refused.values())) or "see 'mpnet device list'",
        )

    def _only(self) -> Path:
        if len(self.clients) == 1:
            return next(iter(self.clients))
        paths = ", ".join(map(str, self.clients))
        raise MpnetError(f"several control processes run: {paths}", "name one with --control-socket")

    def _require(self) -> None:
        if self.clients:
            return
        if self.refused:
            raise next(iter(self.refused.values()))
        Client(default_socket_path()).close()  # which says what is not there


def _paths() -> Iterator[Path]:
    """Where control sockets are, the usual one of this user first."""
    usual = None
    with suppress(MpnetError):
        usual = default_socket_path()
        yield usual
    folders = [_SYSTEM_FOLDER]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.append(Path(runtime) / "mpnet")
    for folder in folders:
        with suppress(OSError):
            yield from (path for name in _NAMES for path in sorted(folder.glob(name)) if path != usual)
