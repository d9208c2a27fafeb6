"""The README's words, run as they stand."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from tests.real.asked import NETWORK, real
from tests.real.running import MPNET

README = (Path(__file__).parent.parent / "README.md").read_text()
PROLOGUE = """
set -eu
trap 'kill $(jobs -p)' EXIT
mount -t tmpfs tmpfs /run       # sockets and shared memory of nobody else
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
"""
WAIT = """
for _ in $(seq 300); do mpnet device list >/dev/null 2>&1 && break; sleep 0.2; done
"""
FETCH = """python -c 'import sys, urllib.request as u; print(u.urlopen("http://" + sys.argv[1]).read())'"""
"""As curl, which need not be there."""
END = """
kill %1
wait %1
trap - EXIT
"""


def blocks(heading: str) -> list[str]:
    """What stands between marks of code below a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return section.split("```")[1::2]


@real(NETWORK)
def test_the_quick_start_is_true(tmp_path: Path) -> None:
    start, attach, options, then = blocks("Attach your own QEMU")
    assert start.count(".venv/bin/mpnet run") == 1
    (tmp_path / ".venv").symlink_to(MPNET.parent.parent)  # as in a checkout
    (tmp_path / "sudo").write_text('#!/bin/sh\nexec "$@"\n')  # it is root here
    (tmp_path / "sudo").chmod(0o755)
    attaching = [line for line in attach.splitlines() if "guest qemu" not in line]  # it boots a guest
    assert len(attaching) < len(attach.splitlines())
    # What comes to an end by itself; words, then what is said of them.
    told = [re.split(r" {2,}", line)[0] for line in then.splitlines()]
    ending = ("mpnet device show", "mpnet worker scale", "curl", "mpnet experiment new")
    shown = [line.replace("curl", FETCH) for line in told if line.startswith(ending)]
    assert len(shown) == len(ending)
    script = "\n".join([PROLOGUE, f"{start.rstrip()} &", WAIT, *attaching, *shown, END])
    namespaces = ["unshare", "--mount", "--net", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    environment = os.environ | {"MPNET_JIT": "0", "PATH": f"{tmp_path}:{MPNET.parent}:{os.environ['PATH']}"}
    environment |= {"MPNET_QEMU_VERSION": "10.0", "MPNET_ACCEL": "kvm"}  # there may be none here
    done = subprocess.run(
        [*namespaces, "bash", "-c", script],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected in (
        "path=/run/mpnet/net0.sock,reconnect-ms=1000",
        "<domain",
        "TAP tap0, up",
        "0 in use, 4 offered, 4 in all",
        "mpnet_device_up",
        "mpnet experiment run sweep.toml",
    ):
        assert expected in done.stdout, done.stdout
    printed = set(shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("-accel"))))
    for word in ("-chardev", "-netdev", "-device", "-object", "-machine"):
        assert word in printed
        assert word in options


def test_every_command_the_readme_names_is_one(invoke) -> None:
    text = "\n".join(
        re.split(r" {2,}", line)[0] for each in blocks("Attach your own QEMU") for line in each.splitlines()
    )
    names = set(re.findall(r"mpnet ((?:[a-z]+ )?[a-z]+)", text))
    assert len(names) > 8
    for name in names:
        words = name.split()
        done = invoke(*words, "--help")
        if done.exit_code:  # the second word is an argument
            done = invoke(words[0], "--help")
        assert done.exit_code == 0, name
