"""Packets as text: tcpdump's words, each line behind when, where and which way."""

import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

import click

_END_SECONDS = 30.0


class Decoder:
    """A tcpdump that is fed pcapng and whose lines are printed; a context manager that waits for its last line.

    Args:
        tcpdump: the program.
    """

    def __init__(self, tcpdump: Path) -> None:
        self._process = subprocess.Popen(
            [str(tcpdump), "-l", "-n", "-t", "-r", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it says what it reads
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us: what has been captured is still printed
        )
        self._heads: deque[str] = deque()
        self._failed: BaseException | None = None
        self._reader = threading.Thread(target=self._print, daemon=True)
        self._reader.start()

    @property
    def fd(self) -> int:
        """Where pcapng is to be written."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def announce(self, head: str) -> None:
        """Tell what stands before the line of the next packet, before that is written."""
        self._heads.append(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._reader.join(_END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        if self._failed is not None and kind is None:
            raise self._failed

    def _print(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                head = "" if line[:1].isspace() else self._heads.popleft() if self._heads else ""
                click.echo(f"{head} {line.rstrip()}" if head else line.rstrip())
                sys.stdout.flush()
        except OSError as error:
            self._failed = error  # whoever reads it has enough, or its disk is full
            self._process.kill()
