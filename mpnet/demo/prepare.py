"""What the Linux guest needs from outside, fetched before or beside the demo's namespace."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from mpnet.demo.summary import NOT_ASKED_FOR
from mpnet.demo.talk import Talk
from mpnet.errors import MpnetError
from mpnet.guest import debian
from mpnet.guest.linux import initramfs

Choice = Literal["embedded", "qemu"]
_BY_HAND = "mpnet demo --guest qemu installs it"


@dataclass
class Preparation:
    """The kernel and the archive of a guest, made by a process outside the namespace; a context manager.

    Args:
        choice: None for the Linux guest where QEMU is on the machine, "qemu" for it in any case.

    Attributes:
        skipped: why there will be no Linux guest; empty where there will be.
    """

    choice: Choice | None
    skipped: str = ""
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Preparation":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()

    def begin(self, talk: Talk) -> None:
        """Install what is asked for, then start to fetch the kernel; to be called outside the namespace.

        Raises:
            MpnetError: what was asked for cannot be installed; with the command to run by hand.
        """
        if self.choice == "embedded":
            self.skipped = NOT_ASKED_FOR
            return
        missing = debian.missing_packages()
        if missing and self.choice == "qemu":
            with talk.waiting(f"installing {' '.join(missing)}"):
                debian.install(missing)
            talk.done(f"installed {' '.join(missing)}")
        elif missing:
            self.skipped = f"{' '.join(missing)} not on this machine; {_BY_HAND}"
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mpnet.demo.prepare"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
        )

    def finish(self, talk: Talk) -> None:
        """Wait until all is there.

        Raises:
            MpnetError: it cannot be had, and was asked for.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            with talk.waiting("fetching Debian's kernel for the guest (30 MB, once)"):
                self._process.wait()
        _, said = self._process.communicate()
        if self._process.returncode == 0:
            return
        if self.choice == "qemu":
            raise MpnetError(said.strip())
        self.skipped = said.strip()


def main() -> None:
    """Fetch the kernel and pack the archive into the user's cache."""
    try:
        initramfs.build(debian.kernel())
    except MpnetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
