"""A terminal that a test types into and looks at: tmux with a server of its own."""

import os
import subprocess
from pathlib import Path
from typing import Self

from tests.real.running import wait_until

PARTS = ("tmux",)


class Terminal:
    """A shell on a screen; use it as a context manager.

    Args:
        folder: for the server's socket.
        columns: of the screen.
        lines: of the screen.
    """

    def __init__(self, folder: Path, columns: int = 80, lines: int = 24) -> None:
        self._command = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null", "-u"]
        environment = os.environ | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PS1": "$ "}
        size = ["-x", str(columns), "-y", str(lines)]
        subprocess.run(
            [*self._command, "new-session", "-d", *size, "sh"], env=environment, check=True, timeout=30
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names for them; other words are typed letter by letter."""
        self._tmux("send-keys", *keys)

    @property
    def screen(self) -> str:
        """What is to be seen, a line a line."""
        return self._tmux("capture-pane", "-p")

    def expect(self, *texts: str) -> str:
        """Wait until all texts are on the screen at once; the screen."""
        seen = ""

        def shown() -> bool:
            nonlocal seen
            seen = self.screen
            return all(text in seen for text in texts)

        try:
            wait_until(shown, f"{texts} on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen}") from None
        return seen

    def flag(self, name: str) -> str:
        """One of tmux's variables of the pane."""
        return self._tmux("display-message", "-p", f"#{{{name}}}").strip()

    def resize(self, columns: int, lines: int) -> None:
        """Make the screen of another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def _tmux(self, *words: str) -> str:
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout
