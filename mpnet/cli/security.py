"""What a worker can give up on this machine, and what the workers that run here really have given up."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mpnet.cli.checks import Check, Finding, Outcome
from mpnet.errors import MpnetError
from mpnet.segment import process
from mpnet.segment import segment as segments
from mpnet.segment.copied import CopiedSegment

_TRIAL = [sys.executable, "-P", "-m", "mpnet.workers.isolation", "doctor"]
_QUICK = {"MPNET_JIT": "0", "OPENBLAS_NUM_THREADS": "1"}
"""One thread, or it could enter no user namespace; and nothing to compile."""
_TRIAL_SECONDS = 60
_NAMESPACES = ("net", "mnt", "ipc")
_NEW_NAMESPACES = (
    "as root: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1; where systemd or a "
    "container starts mpnet, let it make namespaces and mounts, as packaging/systemd/mpnet@.service does"
)
_REMEDIES = {
    "user": "start mpnet as a user of its own, or leave it CAP_SETUID, CAP_SETGID and CAP_KILL",
    "landlock": "a kernel from Linux 5.13 on that is started with landlock among lsm=",
    "system calls": "a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or arm64",
} | dict.fromkeys(("user namespace", "network namespace", "ipc namespace", "mount namespace"), _NEW_NAMESPACES)


def check_stages() -> Iterator[Finding]:
    """A process goes through what each worker goes through."""
    trial = subprocess.run(
        _TRIAL, env=os.environ | _QUICK, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
    )
    if trial.returncode:
        detail = f"a trial ended with status {trial.returncode}: {trial.stderr.strip()[-500:]}"
        yield Finding("isolation", Outcome.MISSING, detail, "report it; until then, MPNET_ISOLATION=0")
        return
    for stage in json.loads(trial.stdout):
        outcome = Outcome.OK if stage["done"] else Outcome.OPTIONAL
        remedy = "" if stage["done"] else _REMEDIES.get(stage["name"], "")
        yield Finding(stage["name"], outcome, stage["detail"], remedy)


def check_workers() -> Iterator[Finding]:
    """Workers that run have given up what they should have."""
    for device in segments.names():
        try:
            segment = CopiedSegment.of(
                segments.open_segment(device, owner=segments.owner(device), read_only=True)
            )
        except MpnetError as error:
            yield Finding(f"device {device}", Outcome.OPTIONAL, error.problem, error.remedy)
            continue
        control = int(segment.header.control_pid)
        for slot, pid in enumerate(segment.workers.pid.tolist()):
            if pid and process.title(pid) == process.worker_title(device, slot):
                yield _look_at(f"worker {slot} of {device}", pid, control)


CHECKS: tuple[Check, ...] = (check_stages, check_workers)


def _look_at(name: str, pid: int, control: int) -> Finding:
    try:
        kept, seen = _rights(pid, control)
    except OSError as error:
        return Finding(name, Outcome.OPTIONAL, f"process {pid} cannot be looked at: {error.strerror}")
    if kept:
        remedy = "see the stages above, and its control's log; MPNET_ISOLATION=0 and MPNET_PERF=1 switch it off"
        return Finding(name, Outcome.OPTIONAL, f"process {pid} has {', '.join(kept)}; {seen}", remedy)
    return Finding(name, Outcome.OK, f"process {pid} has no rights; {seen}")


def _rights(pid: int, control: int) -> tuple[list[str], str]:
    """What a process has that it need not have, and what else to tell of it (proc(5))."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    uid = status["Uid"].split()[1]
    # They stay where control has no CAP_SETGID, with nothing to open by them.
    groups = sorted(set(status["Groups"].split()) - {status["Gid"].split()[1]})
    seen = " ".join([f"uid {uid}", *(["and groups"] if groups else []), *groups])
    kept = [
        what
        for what, has in (
            ("uid 0", uid == "0"),
            ("capabilities", any(int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb"))),
            ("new privileges", status["NoNewPrivs"].strip() != "1"),
            ("every system call", status["Seccomp"].strip() != "2"),
        )
        if has
    ]
    try:
        shared = [name for name in _NAMESPACES if _namespace(pid, name) == _namespace(control, name)]
    except OSError:
        return kept, f"{seen}; whose namespaces it is in, only root sees"
    return kept + [f"control's {name} namespace" for name in shared], seen


def _namespace(pid: int, name: str) -> Path:
    return Path(f"/proc/{pid}/ns/{name}").readlink()
