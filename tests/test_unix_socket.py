"""Binding a Unix socket's path: stale ones are replaced, live ones are not."""

import grp
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from mpnet.errors import MpnetError
from mpnet.rpc import unix_socket
from mpnet.rpc.unix_socket import bind_unix, release_unix


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "s"
    bind_unix(path).close()
    assert path.is_socket()
    sock = bind_unix(path, 0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    release_unix(sock)
    assert not path.exists()


def test_the_socket_is_the_groups_that_is_wanted(tmp_path):
    path = tmp_path / "s"
    with bind_unix(path, 0o660, "kvm"):
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (grp.getgrnam("kvm").gr_gid, 0o660)
    with bind_unix(path, 0o600, "4711"):
        assert path.stat().st_gid == 4711
    with pytest.raises(MpnetError, match="there is no group 'nobodys'"):
        bind_unix(path, 0o660, "nobodys")


def test_what_takes_the_sockets_place_is_given_to_nobody(tmp_path, monkeypatch):
    path, precious = tmp_path / "s", tmp_path / "precious"
    precious.write_text("")
    precious.chmod(0o600)
    bind = unix_socket._bind

    def swapped(sock, path):
        bind(sock, path)
        path.unlink()
        path.symlink_to(precious)

    monkeypatch.setattr(unix_socket, "_bind", swapped)
    with pytest.raises(MpnetError, match="was replaced by something else"):
        bind_unix(path, 0o666, "4711")
    assert (precious.stat().st_gid, stat.S_IMODE(precious.stat().st_mode)) == (os.getegid(), 0o600)


def test_a_user_without_rights_is_told_what_it_takes(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        os.chown(folder, 4711, -1)
        os.seteuid(4711)
        try:
            with pytest.raises(MpnetError, match=r"user 4711 may not give .* SupplementaryGroups=kvm"):
                bind_unix(path, 0o660, "kvm")
            with pytest.raises(MpnetError, match=r"no permission to bind the socket"):
                bind_unix(tmp_path / "s")
        finally:
            os.seteuid(0)
        assert not path.exists()


def test_a_live_socket_is_left_and_undisturbed(tmp_path):
    path = tmp_path / "s"
    with bind_unix(path) as live:
        with pytest.raises(MpnetError, match="in use by another process"):
            bind_unix(path)
        live.setblocking(False)
        with pytest.raises(BlockingIOError):
            live.accept()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_successors_socket_is_not_removed(tmp_path):
    path = tmp_path / "s"
    first = bind_unix(path)
    path.unlink()
    with bind_unix(path):
        release_unix(first)
        assert path.is_socket()


def test_releasing_twice_is_harmless(tmp_path):
    sock = bind_unix(tmp_path / "s")
    release_unix(sock)
    release_unix(sock)


def test_a_file_in_the_way_is_left(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(MpnetError, match="exists and is no socket"):
        bind_unix(path)
    assert path.read_text() == "precious"


def test_a_long_path_names_both_lengths(tmp_path):
    name = "s" * 120
    with pytest.raises(MpnetError, match=r"bytes long, but Linux takes 107"):
        bind_unix(tmp_path / name)


def test_a_missing_folder_names_the_command(tmp_path):
    with pytest.raises(MpnetError, match=f"mkdir -p {tmp_path}/no"):
        bind_unix(tmp_path / "no" / "s")
