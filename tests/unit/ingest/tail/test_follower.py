"""Following a file: every whole line once, through whatever happens to the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from smartscale.errors import ConfigError
from smartscale.ingest.tail.follower import GRACE_S, Follower
from smartscale.ingest.tail.state import Position, State


class Log:
    """A log file, its rotations, and a follower with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.now_s = 0.0
        self.age = 0

    def write(self, text: str, to: str = "access.log") -> None:
        path = self.path.with_name(to)
        with path.open("a") as file:
            file.write(text)
        self.age += 1
        os.utime(path, (self.age, self.age))  # files of one moment would have no order

    def follow(self, position: Position | None = None, from_beginning: bool = True) -> Follower:
        return Follower(self.path, position, from_beginning, lambda: self.now_s)

    def lines(self, follower: Follower, most: int = 100) -> list[str]:
        """Everything there is to be read, waiting out the grace of rotated files."""
        found: list[str] = []
        for _ in range(20):
            lines = follower.read(most)
            found += [line.text for line in lines]
            if not lines:
                self.now_s += GRACE_S
        return found


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_whole_lines_are_read_as_they_come(log: Log) -> None:
    """What is behind the last line break waits for the rest."""
    follower = log.follow()
    assert follower.read(10) == []
    log.write("a\nb\nhal")
    assert [line.text for line in follower.read(10)] == ["a", "b"]
    assert follower.read(10) == []
    log.write("f\n")
    assert [line.text for line in follower.read(10)] == ["half"]


def test_reading_starts_at_the_end_unless_told_otherwise(log: Log) -> None:
    """At the end of the last whole line."""
    log.write("old\nhal")
    at_end = log.follow(from_beginning=False)
    log.write("f\nnew\n")
    assert log.lines(at_end) == ["half", "new"]
    assert log.lines(log.follow()) == ["old", "half", "new"]


def test_a_file_that_appears_later_is_read_from_its_beginning(log: Log) -> None:
    follower = log.follow(from_beginning=False)
    log.write("a\n")
    assert log.lines(follower) == ["a"]


def test_it_goes_on_behind_the_last_line_that_was_answered(log: Log) -> None:
    log.write("a\nb\nc\n")
    first, second, _ = log.follow().read(10)
    assert log.lines(log.follow(first.end)) == ["b", "c"]
    assert log.lines(log.follow(second.end, from_beginning=False)) == ["c"]


def test_a_line_has_the_same_id_whenever_it_is_read(log: Log) -> None:
    """And no other line has it."""
    log.write("a\nb\nb\n")
    ids = [line.event_id for line in log.follow().read(10)]
    assert len(set(ids)) == 3
    assert [line.event_id for line in log.follow(log.follow().read(1)[0].end).read(10)] == ids[1:]


def test_a_renamed_file_is_read_to_its_end_and_then_the_new_one(log: Log) -> None:
    """Its writer goes on for a while."""
    log.write("a\n")
    follower = log.follow()
    assert [line.text for line in follower.read(10)] == ["a"]
    log.write("b\n")
    log.path.rename(log.path.with_name("access.log.1"))
    log.write("d\n")
    assert [line.text for line in follower.read(10)] == ["b"]
    assert follower.read(10) == []
    log.write("c\nlast", to="access.log.1")
    assert [line.text for line in follower.read(10)] == ["c"]
    log.now_s += GRACE_S
    (last,) = follower.read(10)
    assert last.text == "last"
    assert log.lines(log.follow(last.end)) == ["d"], "and so it is for a follower that starts there"
    assert log.lines(follower) == ["d"]


def test_two_rotations_at_once_lose_nothing(log: Log) -> None:
    log.write("a\n")
    follower = log.follow()
    follower.read(10)
    log.write("b\n")
    log.path.rename(log.path.with_name("access.log.2"))
    log.write("c\n", to="access.log.1")
    log.write("d\n")
    assert log.lines(follower) == ["b", "c", "d"]


@pytest.mark.parametrize(
    "names", [("access.log.2", "access.log.1"), ("access.log-20260601", "access.log-20260602")]
)
def test_rotations_while_nobody_followed_lose_nothing(log: Log, names: tuple[str, str]) -> None:
    """Other files of the folder are left alone."""
    log.write("a\nb\n")
    position = log.follow().read(1)[0].end
    log.path.rename(log.path.with_name(names[0]))
    log.write("c\n", to=names[1])
    log.write("d\n")
    log.write("x\n", to="access.log.bak")
    log.write("x\n", to="other.log.1")
    assert log.lines(log.follow(position)) == ["b", "c", "d"]


def test_a_file_that_is_copied_and_cut_is_read_on_in_the_copy(log: Log) -> None:
    """Then from its beginning; ids stay those of the file, so that nothing is sent under two."""
    log.write("a\nb\n")
    expected = [line.event_id for line in log.follow().read(10)]
    follower = log.follow()
    first = follower.read(1)
    shutil.copy(log.path, log.path.with_name("access.log.1"))
    os.truncate(log.path, 0)
    log.write("c\n")
    rest = follower.read(10)
    assert [line.event_id for line in [*first, *rest]] == expected
    assert log.lines(follower) == ["c"]


def test_a_file_that_was_cut_and_has_grown_beyond_the_position_is_noticed(log: Log) -> None:
    log.write("a\n")
    follower = log.follow()
    assert log.lines(follower) == ["a"]
    os.truncate(log.path, 0)
    log.write("longer than before\n")
    assert log.lines(follower) == ["longer than before"]


def test_a_file_that_is_gone_is_told_and_the_new_one_read(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write("a\nb\n")
    position = log.follow().read(1)[0].end
    log.path.unlink()
    log.write("other\n")
    assert log.lines(log.follow(position)) == ["other"]
    assert "is gone" in caplog.text


def test_a_path_that_cannot_be_read_says_so_at_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Follower(log.path.parent, None, from_beginning=True)
    log.follow()
    assert "not there yet" in caplog.text


def test_a_line_without_end_is_passed_over(log: Log) -> None:
    """A megabyte at a time; what follows is read."""
    log.write("x" * (2 << 20) + "\nnext\n")
    texts = log.lines(log.follow())
    assert texts[-1] == "next"
    assert set("".join(texts[:-1])) == {"x"}


def test_a_first_line_of_any_length_makes_an_identity(log: Log) -> None:
    log.write("x" * 10_000 + "\nb\n")
    assert log.lines(log.follow(log.follow().read(1)[0].end)) == ["b"]


def test_positions_outlive_the_process(tmp_path: Path) -> None:
    """A half-written file is never there, and two processes cannot use it at once."""
    position = Position("id", 7, "hash", 3, 12)
    with State(tmp_path / "run" / "tail.json") as state:
        assert state.get(Path("/a")) is None
        state.put(Path("/a"), position)
        with pytest.raises(ConfigError, match="another process"), State(tmp_path / "run" / "tail.json"):
            pass
    with State(tmp_path / "run" / "tail.json") as state:
        assert state.get(Path("/a")) == position


def test_a_state_file_that_is_none_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tail.json").write_text("hello")
    with pytest.raises(ConfigError, match="remove it"), State(tmp_path / "tail.json"):
        pass
