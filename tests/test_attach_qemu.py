"""What people are told to type for their QEMU: a real one takes it, whatever its version."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpnet.guest import debian
from mpnet.guest.linux import version
from tests.real.asked import real
from tests.real.running import MPNET, Running, wait_until

README = Path(__file__).parent.parent / "README.md"
PAIRS = 4


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    interpreted = {"MPNET_JIT": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="mpnet-") as folder,
        Running(Path(folder), None, PAIRS, words="backend=null", environment=interpreted) as running,
    ):
        yield running


@real("qemu")
@contextmanager
def attached(served: Running, words: list[str]) -> Iterator[None]:
    """A QEMU whose processors stand still, attached to the device."""
    command = [str(debian.program("qemu-system-x86_64")), "-S", "-nodefaults", "-display", "none", *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        wait_until(lambda: process.poll() is not None or _is_asked(served, process.pid), "QEMU attaches or ends")
        if process.poll() is not None:
            raise AssertionError(f"{shlex.join(words)}: {process.stdout.read().decode()}")
        yield
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
        wait_until(lambda: served.show()["session"]["front_end"] is None, "the session is over")


def _is_asked(served: Running, pid: int) -> bool:
    """Whether QEMU has set its card up as far as it does before its guest runs."""
    session = served.show()["session"]
    asked = {each["request"] for each in session["requests"]}
    front_end = session["front_end"]
    return front_end is not None and front_end["pid"] == pid and "SET_OWNER" in asked


@real("qemu")
@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_this_machines_qemu_takes_what_is_printed(served: Running, accel: str) -> None:
    command = [MPNET, "device", "qemu", "net0", "--memory", "64", "--control-socket", str(served.control)]
    done = subprocess.run([*command, "--accel", accel], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert "ctrl_guest_offloads=off" in done.stdout, "a guest is not led to believe that XDP works"
    words = shlex.split(done.stdout)
    if accel == "kvm":  # what attaches is the same; who executes the guest needs not be there
        words = [word.replace("kvm", "tcg") for word in words]
    with attached(served, words):
        pass


@real("qemu")
def test_this_machines_qemu_takes_the_words_of_the_readme(served: Running) -> None:
    (block,) = re.findall(r"```\n(-chardev .*?)```", README.read_text(), re.DOTALL)
    words = shlex.split(block.replace("/run/mpnet/net0.sock", str(served.socket)).replace("1024M", "64M"))
    with attached(served, ["-accel", "tcg", *words]):
        pass
    understood = version.installed()
    assert understood is not None
    reconnect = "reconnect-ms=1000" if understood >= version.RECONNECT_MS else "reconnect=1"
    assert reconnect in README.read_text()
    path = f"path={served.socket}"
    with attached(served, ["-accel", "tcg", *(word.replace(path, f"{path},{reconnect}") for word in words)]):
        pass
