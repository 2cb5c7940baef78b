"""The socket at which workers hear of the directory."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from gateway.process.office import _feed_socket


def test_only_this_user_may_connect(tmp_path: Path) -> None:
    folder = tmp_path / "office"
    listener, path = _feed_socket(folder)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert Path(path).name == f"feed-{os.getpid()}.sock"


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
        assert sorted(one.name for one in tmp_path.iterdir()) == sorted([served.name, Path(path_).name])


def test_a_folder_whose_path_is_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    listener, path = _feed_socket(folder)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    assert not path.startswith(str(tmp_path))
    Path(path).unlink()
    Path(path).parent.rmdir()
