"""What is shipped: a wheel and a source archive with both symlinked folders, under their full names alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import mpnet
from mpnet.cli import manual

ROOT = Path(__file__).parent.parent
FOLDERS = ("control", "dashboards", "workers")
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are shipped, as git checks them out: a build writes beside them."""
    folder = tmp_path_factory.mktemp("source")
    names = (
        "pyproject.toml", "MANIFEST.in", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "docs", "packaging",
        "tests", "mpnet", *FOLDERS,
    )  # fmt: skip
    # -P: the symlinks of mpnet/ stay symlinks. --no-preserve: bytecode is no one's concern.
    subprocess.run(["cp", "-rP", *(str(ROOT / name) for name in names), str(folder)], check=True)
    for cache in list(folder.rglob("__pycache__")):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()
    return folder


def build(what: str, source: Path, target: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, f"build_{what}", str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def modules(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


def assert_complete(names: set[PurePosixPath], root: PurePosixPath) -> None:
    """All modules, scripts, dashboards and the mark of typed packages are among the names, below ``root``."""
    wanted = {
        path.relative_to(ROOT)
        for path in (ROOT / "mpnet").rglob("*")
        if path.suffix in {".py", ".sh", ".toml", ".j2"}
    }
    wanted |= {Path("mpnet") / folder / name for folder in FOLDERS for name in modules(ROOT / folder)}
    data = (path for kind in ("html", "json", "lib", "yml") for path in (ROOT / "dashboards").rglob(f"*.{kind}"))
    wanted |= {Path("mpnet") / path.relative_to(ROOT) for path in data}
    assert {str(root / path) for path in wanted} | {str(root / "mpnet/py.typed")} <= set(map(str, names))


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {PurePosixPath(name) for name in archive.namelist()}
    assert_complete(names, PurePosixPath())
    roots = {name.parts[0] for name in names}
    # PyPI has a python-control and a package named workers: neither name may be taken.
    assert {root for root in roots if not root.endswith((".dist-info", ".data"))} == {"mpnet"}


def shared() -> set[str]:
    """What administrators and readers want, by where it is below an environment's ``share``."""
    packaging = {path for path in (ROOT / "packaging").rglob("*") if path.is_file() and path.suffix != ".1"}
    docs = {path for path in (ROOT / "docs").iterdir() if path.is_file()}
    assert len(packaging) >= 5
    return {
        "man/man1/mpnet.1",
        *(f"mpnet/{path.relative_to(ROOT)}" for path in packaging),
        *(f"doc/mpnet/{path.relative_to(ROOT)}" for path in {*docs, ROOT / "README.md", ROOT / "CHANGELOG.md"}),
    }


def test_an_installation_has_units_docs_and_manual(installed: Path) -> None:
    share = installed.parent.parent / "share"
    assert {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()} == shared()


def test_the_manual_page_is_what_the_commands_say() -> None:
    assert (ROOT / "packaging/man/mpnet.1").read_text() == manual.page(), "make man writes it"
    lines = manual.page().splitlines()
    assert all(line.isascii() for line in lines), "whatever roff does with an encoding"
    macros = {line.split()[0] for line in lines if line.startswith((".", "'"))}
    assert macros == {'.\\"', ".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".BR"}
    assert ".SS mpnet device show [OPTIONS] NAME" in lines


def test_the_version_has_its_section_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version == mpnet.__version__
    assert f"\n## [{version}] - 20" in (ROOT / "CHANGELOG.md").read_text()


def test_source_archive_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", source, tmp_path)
    with tarfile.open(archive) as tar:
        names = {PurePosixPath(name) for name in tar.getnames()}
        assert_complete(names, PurePosixPath("mpnet-0.1.0"))
        for path in (
            "Makefile",
            "tests/conftest.py",
            "tests/real/systemd.sh",
            "docs/operations.md",
            "packaging/net0.toml",
        ):
            assert PurePosixPath("mpnet-0.1.0") / path in names
        tar.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / "mpnet-0.1.0", tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    site = next((folder / "lib").glob("python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", str(wheel)],
        check=True,
    )  # fmt: skip
    # Only its folder, not what .pth files in it say: they make the editable mpnet importable.
    (site / "dependencies.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")
    return python


def run(*command: str | Path, folder: Path) -> str:
    # Not compiled: where the sources lie makes no difference to that, and it takes most of a minute.
    environment = os.environ | {"MPNET_JIT": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    assert "demo" in run(installed.with_name("mpnet"), "--help", folder=tmp_path)
    where = run(installed, "-c", "import mpnet; print(mpnet.__file__)", folder=tmp_path)
    assert where.startswith(str(installed.parent.parent))
    # The whole data path, and all of control.
    run(installed, "-c", "import mpnet.workers.warm, mpnet.control.server", folder=tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
def test_no_short_name_is_importable(installed: Path, tmp_path: Path, name: str) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert run(installed, "-c", code, folder=tmp_path) == "None\n"


def test_scripts_of_the_guest_are_found_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    code = "from importlib import resources as r; print((r.files('mpnet.guest.linux') / 'init.sh').read_text())"
    assert run(installed, "-c", code, folder=tmp_path).startswith("#!/bin/busybox sh")


PIP = """#!/bin/sh
echo "Building wheel for posix_ipc (pyproject.toml): finished with status 'error'" >&2
echo "{reason}" >&2
exit 1
"""


@pytest.mark.parametrize(
    ("reason", "compiler", "said"),
    [
        ("error: command 'cc' failed: No such file", False, "apt-get install gcc libc6-dev python3-dev"),
        ("posix_ipc.c:12: Python.h: No such file", True, "apt-get install gcc libc6-dev python3-dev"),
        ("no space left on device", True, "no space left on device"),
    ],
)  # fmt: skip
def test_make_names_in_a_line_what_compiling_takes(
    tmp_path: Path, reason: str, compiler: bool, said: str
) -> None:
    programs, folder = tmp_path / "programs", tmp_path / "venv/bin"
    for made in (programs, folder):
        made.mkdir(parents=True)
    for name in ("sh", "grep", "cat", "touch", *(["true"] if compiler else [])):
        found = shutil.which(name)
        assert found
        (programs / ("cc" if name == "true" else name)).symlink_to(found)
    (folder / "pip").write_text(PIP.format(reason=reason))
    (folder / "pip").chmod(0o755)
    make = shutil.which("make")
    assert make
    done = subprocess.run(
        [make, f"VENV={tmp_path / 'venv'}", f"{tmp_path / 'venv/.run'}"],
        cwd=ROOT, env={"PATH": str(programs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert said in lines[-1]
    assert (len(lines) == 1) == ("apt-get" in said)


def test_a_missing_package_is_an_error_in_a_line(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['posix_ipc'] = None\n"
        "from mpnet.cli import packages; packages._is_installed = lambda name: name != 'posix_ipc'\n"
        "packages.shutil.which = lambda name: None\n"
        "from mpnet.cli.main import main; sys.argv = ['mpnet', 'doctor']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "mpnet: error: the Python package posix_ipc is not installed: as root: apt-get install gcc"
    )
    assert "-m pip install 'posix_ipc" in line
