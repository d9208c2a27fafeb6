"""What any command does with odd streams, locales and narrow screens, and what its help looks like."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mpnet.cli.main import cli
from mpnet.config.file import read_file
from mpnet.experiment.sweep import read as read_sweep
from mpnet.experiment.templates import text as template
from tests.real.running import MPNET

COLUMNS = 80
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups too."""
    yield path
    context = click.Context(group, info_name="mpnet")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


ALL = list(commands(cli))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_screen_and_breaks_no_word(invoke, path):
    assert path != () or len(ALL) > 20
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    text = invoke(*path, "--help", COLUMNS=str(COLUMNS)).stdout
    assert max(map(len, text.splitlines())) <= COLUMNS
    words = set(text.split())
    for option in command.params:
        told = getattr(option, "help", None) or ""
        assert set(told.split()) <= words, f"{option.name}: words of its help are broken"


@pytest.mark.parametrize("words", [("--help",), ("completion", "bash"), ("doctor",), ("doctor", "-j")])
@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_data_that_cannot_be_written_is_an_error_in_a_line(words, where):
    redirection = ">&-" if where == "closed" else f"> {where}"
    shell = ["sh", "-c", f'exec "$0" "$@" {redirection}', str(MPNET), *words]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=120, check=False)
    reason = "it is closed" if where == "closed" else "No space left on device"
    assert (done.returncode, done.stderr) == (1, f"mpnet: error: cannot write to standard output: {reason}\n")


def test_nothing_gets_the_number_of_a_closed_stream():
    code = (
        "import os, socket; from mpnet.cli.streams import checked_streams\n"
        "with checked_streams():\n"
        "    assert socket.socket().fileno() > 2\n"
    )
    python = str(MPNET.with_name("python"))
    shell = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', python, "-c", code]
    assert subprocess.run(shell, timeout=120, check=False).returncode == 0


def test_a_reader_that_has_enough_hears_nothing():
    pipe = f"{MPNET} doctor -j | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) in {(1, ""), (0, "")}  # it may have read a page, where that is less


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("words", [("run", "--help"), ("device", "qemu", "--help"), ("bench", "--list")])
def test_an_encoding_that_lacks_characters_is_no_failure(words, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([MPNET, *words], env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


def test_files_may_begin_with_the_mark_of_utf_8(tmp_path: Path):
    config = tmp_path / "mpnet.toml"
    config.write_text(f'{BOM}[[device]]\nid = "net0"\ntap = "tap0"\nsocket = "/run/x"\n', encoding="utf-8")
    assert len(read_file(config).devices) == 1
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(BOM + template("start"), encoding="utf-8")
    assert not read_sweep(sweep).text.startswith(BOM), "the copy beside the results has none"


def test_cases_are_found_by_what_is_nearly_their_name(invoke):
    done = invoke("bench", "--case", "rx-udp-strem")
    assert done.exit_code == 2
    assert "did you mean rx-udp-stream" in done.stderr
    assert len(re.findall("tx-64-flows", invoke("bench", "--help").stdout)) == 0
    assert "tx-64-flows" in invoke("bench", "--list").stdout
