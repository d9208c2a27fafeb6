"""The management socket's client: answers that are none, nobody there, and where it looks."""

import os
import threading
from pathlib import Path

import pytest

from mpnet.errors import MpnetError
from mpnet.rpc.management import LENGTH, MAX_ANSWER_BYTES, Client, default_socket_path
from mpnet.rpc.unix_socket import bind_unix


def _answering(data):
    """A socket path's listener whose first client gets ``data`` and is hung up on."""

    def serve(listener):
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(data)

    return serve


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "closed the connection"),
        (LENGTH.pack(10) + b"half", "closed the connection"),
        (LENGTH.pack(1) + b"\xc1", "does not speak mpnet's management protocol"),
        (LENGTH.pack(MAX_ANSWER_BYTES + 1), "announces 16777217 bytes"),
    ],
)
def test_a_bad_answer_is_an_error(tmp_path, data, expected):
    path = tmp_path / "s"
    with bind_unix(path) as listener:
        thread = threading.Thread(target=_answering(data), args=(listener,))
        thread.start()
        with Client(path, 60) as client, pytest.raises(MpnetError, match=expected):
            client.call("control.show")
        thread.join()


def test_silence_is_an_error(tmp_path):
    expected = pytest.raises(MpnetError, match="gave no answer to control")
    with bind_unix(tmp_path / "s"), Client(tmp_path / "s", 0.01) as client, expected:
        client.call("control.show")


def test_nobody_there_names_the_remedy(tmp_path):
    with pytest.raises(MpnetError, match=r"no control process listens at .*mpnet run"):
        Client(tmp_path / "none")


def test_the_default_path_follows_environment_and_user(monkeypatch, tmp_path):
    monkeypatch.setenv("MPNET_CONTROL_SOCKET", "/x/y")
    assert default_socket_path() == Path("/x/y")
    monkeypatch.delenv("MPNET_CONTROL_SOCKET")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_socket_path() == tmp_path / "mpnet" / "control.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(MpnetError, match=r"XDG_RUNTIME_DIR is not set.*--control-socket"):
        default_socket_path()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert default_socket_path() == Path("/run/mpnet/control.sock")
