"""Cancellation on a board in shared memory: seen by every reader, written by its owner alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gsv.errors import Overloaded
from gsv.serving.backend import cancel_board
from gsv.serving.backend.cancel_board import (
    SLOTS,
    CancelBoard,
    CancelReader,
    caller_id,
    owner_of,
    sweep,
)


def test_a_cancelled_caller_is_seen_and_others_are_not(tmp_path: Path) -> None:
    board, reader = CancelBoard(tmp_path), CancelReader(tmp_path)
    one, two = board.token("one"), board.token("two")
    left_one, left_two = reader.watch(one.request_id), reader.watch(two.request_id)
    assert left_one is not None
    assert left_two is not None
    assert not left_one()
    one.cancel()
    assert left_one()
    assert not left_two()
    two.release()
    assert left_two(), "nobody waits any more"
    board.close()


def test_a_slot_that_is_used_again_does_not_revive_its_last_caller(tmp_path: Path) -> None:
    board, reader = CancelBoard(tmp_path), CancelReader(tmp_path)
    first = board.token("first")
    left = reader.watch(first.request_id)
    first.release()
    second = board.token("second")
    assert left is not None
    assert left()
    first.cancel()
    still = reader.watch(second.request_id)
    assert still is not None
    assert not still()


@pytest.mark.parametrize(
    "request_id", ["", "mine", "gsv!", "gsv!1!2!3!4!x", "gsv!../../etc!2!3!4!x"]
)
def test_somebody_elses_id_cancels_and_reads_nothing(tmp_path: Path, request_id: str) -> None:
    assert CancelReader(tmp_path).watch(request_id) is None


def test_an_id_of_this_server_without_a_board_counts_as_left(tmp_path: Path) -> None:
    left = CancelReader(tmp_path).watch(f"gsv!{os.getppid()}!1!3!4!x")
    assert left is not None
    assert left()


def test_only_the_owner_can_write_the_board(tmp_path: Path) -> None:
    CancelBoard(tmp_path)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_boards_of_the_dead_are_swept_and_count_as_left(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from gsv.serving.backend.cancel_board import CancelBoard\n"
        "print(CancelBoard(Path(sys.argv[1])).token('x').request_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    reader = CancelReader(tmp_path, server=os.getpid())
    left = reader.watch(done.stdout.strip())
    assert left is not None
    cancel_board._OWNER_CHECK_SECONDS, kept = -1.0, cancel_board._OWNER_CHECK_SECONDS
    try:
        assert left()
    finally:
        cancel_board._OWNER_CHECK_SECONDS = kept
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_boards_of_another_process_namespace_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "gsv_cancel_1_99999998_99999999"
    foreign.touch()
    assert sweep(tmp_path) == []
    assert foreign.exists()


def test_a_board_that_is_closed_counts_as_left_by_all(tmp_path: Path) -> None:
    board, reader = CancelBoard(tmp_path), CancelReader(tmp_path)
    left = reader.watch(board.token("x").request_id)
    board.close()
    assert left is not None
    assert left()
    assert list(tmp_path.iterdir()) == []


def test_ids_tell_the_caller_and_the_public_request(tmp_path: Path) -> None:
    board = CancelBoard(tmp_path)
    one, two = board.token("a!b"), board.token("a!b")
    assert caller_id(one.request_id) == "a!b"
    assert caller_id("plain") == "plain"
    assert owner_of(one.request_id) != owner_of(two.request_id)
    assert owner_of("plain") == "plain"


def test_a_board_without_a_free_slot_refuses(tmp_path: Path) -> None:
    board = CancelBoard(tmp_path)
    tokens = [board.token("") for _ in range(SLOTS)]
    with pytest.raises(Overloaded, match="4096 callers"):
        board.token("")
    tokens[0].release()
    board.token("")
