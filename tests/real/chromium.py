"""Debian's Chromium, to look at pages."""

import subprocess
import tempfile

from mpnet.guest import debian

PARTS = ("chromium",)

_PATIENCE_SECONDS = 120


def browse(url: str, *options: str) -> str:
    """Open a page in Chromium and give its DOM when its scripts are through.

    Args:
        url: of the page.
        options: further ones, as ``--screenshot=FILE`` and ``--window-size=W,H``.
    """
    with tempfile.TemporaryDirectory(prefix="mpnet-chromium-") as profile:
        done = subprocess.run(
            [
                str(debian.program("chromium")),
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                # The page has no sound, and shared memory may be scarce.
                *("--mute-audio", "--disable-dev-shm-usage", f"--user-data-dir={profile}"),
                *("--virtual-time-budget=3000", *options, "--dump-dom", url),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout
