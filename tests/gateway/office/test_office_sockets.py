"""The socket at which workers hear of the directory."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from gateway.process.office import _feed_socket
from gateway.process.own_sockets import remove


def test_only_this_user_may_connect(tmp_path: Path) -> None:
    folder = tmp_path / "office"
    listener, path = _feed_socket(folder)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert path.name == f"feed-{os.getpid()}.sock"


def test_what_a_killed_gateway_left_is_removed_and_what_another_serves_is_not(tmp_path: Path) -> None:
    left, served = tmp_path / "feed-1.sock", tmp_path / "feed-2.sock"
    for path in (left, served):
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(path))
        if path is served:
            one.listen()
            other = one
        else:
            one.close()
    listener, path_ = _feed_socket(tmp_path)
    with listener, other:
        assert sorted(one.name for one in tmp_path.iterdir()) == sorted([served.name, path_.name])


def test_a_folder_whose_path_is_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    listener, path = _feed_socket(folder)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert not path.is_relative_to(tmp_path)
    remove(path, folder)
    assert not path.parent.exists()


def test_a_folder_that_cannot_be_made_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    listener, path = _feed_socket(tmp_path / "file" / "office")
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    remove(path, tmp_path / "file" / "office")


def test_two_gateways_with_one_folder_and_one_process_number_take_nothing_from_each_other(tmp_path: Path) -> None:
    """As in two containers."""
    first, one = _feed_socket(tmp_path)
    second, other = _feed_socket(tmp_path)
    with first, second, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(one))
        assert one != other
    remove(other, tmp_path)
    assert one.exists()
