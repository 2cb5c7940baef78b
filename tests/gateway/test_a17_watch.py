"""A17: a change of the file is noticed, and not before it is written to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load_text
from gateway.config.watch import EVERY_S, PATIENCE_S, SETTLE_S, Parsed, Watch

OLD = "server: {port: 1}\n"
NEW = "server: {port: 2}\n"


class Looking:
    """A watch whose time is told by hand."""

    def __init__(self, file: Path, text: str = OLD) -> None:
        self.now_s = 100.0
        self.watch = Watch(file, text, lambda text: load_text(text, str(file)))

    def after(self, seconds: float) -> Parsed | None:
        self.now_s += seconds
        return self.watch.look(self.now_s)

    def settled(self) -> Parsed | None:
        """What it finds once the file is left alone."""
        first = self.after(EVERY_S)
        return first or self.after(2 * SETTLE_S)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "headrace.yaml"
    made.write_text(OLD)
    return made


def test_a_file_that_nobody_touched_is_not_told_of(file: Path) -> None:
    looking = Looking(file)
    assert [looking.after(EVERY_S) for _ in range(5)] == [None] * 5
    assert looking.watch.pause_s == EVERY_S


def test_a_change_is_told_of_once(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_text(NEW)
    found = looking.settled()
    assert found is not None
    assert found.text == NEW
    assert found.loaded is not None
    assert found.loaded.config.server.port == 2
    assert looking.settled() is None


def test_a_file_that_is_still_being_written_to_is_left_alone(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    for length in range(1, len(NEW)):
        file.write_text(NEW[:length])
        assert looking.after(SETTLE_S) is None
        assert looking.watch.pause_s == SETTLE_S
    file.write_text(NEW)
    assert looking.settled() is not None


def test_a_half_written_file_that_is_completed_in_time_is_never_called_bad(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_text("server: {port:")
    assert looking.after(EVERY_S) is None
    assert looking.after(PATIENCE_S - SETTLE_S) is None
    file.write_text(NEW)
    found = looking.settled()
    assert found is not None
    assert found.text == NEW


def test_a_file_that_stays_bad_is_told_of_once_with_the_place(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_text("server: {prot: 2}\n")
    assert looking.after(EVERY_S) is None
    found = looking.after(PATIENCE_S)
    assert found is not None
    assert found.error is not None
    assert str(found.error).startswith(f"{file}:1:10: server.prot")
    assert looking.after(PATIENCE_S) is None


@pytest.mark.parametrize(("text", "why"), [("", "is empty"), (" \n", "is empty")])
def test_a_file_that_was_emptied_is_no_configuration(file: Path, text: str, why: str) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_text(text)
    looking.after(EVERY_S)
    found = looking.after(PATIENCE_S)
    assert found is not None
    assert why in str(found.error)


def test_a_file_that_is_gone_is_bad_and_its_return_is_a_change(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.unlink()
    looking.after(EVERY_S)
    found = looking.after(PATIENCE_S)
    assert found is not None
    assert "cannot be read: No such file" in str(found.error)
    file.write_text(NEW)
    found = looking.settled()
    assert found is not None
    assert found.text == NEW


def test_bytes_that_are_no_text_are_bad(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_bytes(b"server: \xff\n")
    looking.after(EVERY_S)
    found = looking.after(PATIENCE_S)
    assert found is not None
    assert "is not UTF-8 at byte 8" in str(found.error)


def test_a_file_that_is_replaced_by_an_equal_one_is_no_change(file: Path, tmp_path: Path) -> None:
    looking = Looking(file)
    looking.settled()
    other = tmp_path / "other.yaml"
    other.write_text(OLD)
    other.rename(file)
    assert looking.settled() is None


def test_a_symbolic_link_that_leads_elsewhere_is_a_change_as_with_mounted_config_maps(tmp_path: Path) -> None:
    for name, text in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "headrace.yaml").write_text(text)
    data = tmp_path / "..data"
    data.symlink_to("..1")
    file = tmp_path / "headrace.yaml"
    file.symlink_to("..data/headrace.yaml")
    looking = Looking(file)
    looking.settled()
    beside = tmp_path / "..data_tmp"
    beside.symlink_to("..2")
    beside.rename(data)
    found = looking.settled()
    assert found is not None
    assert found.text == NEW


def test_what_somebody_else_has_dealt_with_is_not_told_of(file: Path) -> None:
    looking = Looking(file)
    looking.settled()
    file.write_text(NEW)
    looking.watch.knows(NEW)
    assert looking.settled() is None
