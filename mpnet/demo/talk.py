"""What the demo tells a person: steps done, and what is waited for."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mpnet.demo.summary import Check


class Talk:
    """A terminal is drawn on; a pipe gets plain lines.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, text: str) -> None:
        """Begin a part."""
        self._print(f"\n[bold]{text}[/]")

    def done(self, text: str) -> None:
        """A step that worked."""
        self._print(f"  [green]✓[/] {text}")

    def failed(self, text: str) -> None:
        """A step that did not."""
        self._print(f"  [red]✗ {text}[/]")

    def check(self, check: Check) -> Check:
        """Tell a check and its figures; give it back."""
        (self.done if check.ok else self.failed)(f"{check.name}: {check.detail}")
        return check

    def note(self, text: str) -> None:
        """Something to know."""
        self._print(f"  [dim]{text}[/]")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what takes its time, while the block runs."""
        if self.console.is_terminal:
            with self.console.status(f"{text} …"):
                yield
        else:
            self._print(f"  … {text}")
            yield

    def _print(self, text: str) -> None:
        # A pipe has no width to wrap at.
        self.console.print(text, soft_wrap=not self.console.is_terminal)
