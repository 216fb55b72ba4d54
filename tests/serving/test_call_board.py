"""Calls on a board in shared memory: who still waits, seen by every stage; who works on them."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gsv.errors import Overloaded
from gsv.serving.backend import call_board
from gsv.serving.backend.call_board import (
    CALLS,
    SLOTS,
    BoardReader,
    CallBoard,
    caller_id,
    is_made_again,
    owner_of,
    sweep,
)


def test_a_cancelled_caller_is_seen_and_others_are_not(tmp_path: Path) -> None:
    board, reader = CallBoard(tmp_path), BoardReader(tmp_path)
    one, two = board.token("one"), board.token("two")
    left_one, left_two = (reader.watch(board.call(token).request_id) for token in (one, two))
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
    board, reader = CallBoard(tmp_path), BoardReader(tmp_path)
    first = board.token("first")
    left = reader.watch(board.call(first).request_id)
    first.release()
    second = board.token("second")
    assert left is not None
    assert left()
    first.cancel()
    still = reader.watch(board.call(second).request_id)
    assert still is not None
    assert not still()


@pytest.mark.parametrize(
    "request_id", ["", "mine", "gsv!", "gsv!1!2!3!4!5!x", "gsv!../../etc!2!3!4!5!x"]
)
def test_somebody_elses_id_cancels_and_reads_nothing(tmp_path: Path, request_id: str) -> None:
    assert BoardReader(tmp_path, server=7).watch(request_id) is None


def test_an_id_of_this_server_without_a_board_counts_as_left(tmp_path: Path) -> None:
    left = BoardReader(tmp_path).watch(f"gsv!{os.getppid()}!1!3!4!5!x")
    assert left is not None
    assert left()


def test_only_the_owner_can_write_the_board(tmp_path: Path) -> None:
    CallBoard(tmp_path)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_boards_of_the_dead_are_swept_and_count_as_left(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from gsv.serving.backend.call_board import CallBoard\n"
        "board = CallBoard(Path(sys.argv[1]))\n"
        "print(board.call(board.token('x')).request_id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    reader = BoardReader(tmp_path, server=os.getpid())
    left = reader.watch(done.stdout.strip())
    assert left is not None
    call_board._OWNER_CHECK_SECONDS, kept = -1.0, call_board._OWNER_CHECK_SECONDS
    try:
        assert left()
    finally:
        call_board._OWNER_CHECK_SECONDS = kept
    assert len(sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_boards_of_another_process_namespace_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "gsv_calls_1_99999998_99999999"
    foreign.touch()
    assert sweep(tmp_path) == []
    assert foreign.exists()


def test_a_board_that_is_closed_counts_as_left_by_all(tmp_path: Path) -> None:
    board, reader = CallBoard(tmp_path), BoardReader(tmp_path)
    left = reader.watch(board.call(board.token("x")).request_id)
    board.close()
    assert left is not None
    assert left()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_first_audio_is_seen_by_every_process(tmp_path: Path) -> None:
    reader = BoardReader(tmp_path)
    assert not reader.first_audio_awaited()
    reader._looked = -math.inf  # as if a second had passed
    board = CallBoard(tmp_path)
    one, two = board.token("one"), board.token("two")
    assert not reader.first_audio_awaited()
    one.await_first_audio(awaited=True)
    two.await_first_audio(awaited=True)
    assert reader.first_audio_awaited()
    one.await_first_audio(awaited=False)
    assert reader.first_audio_awaited()
    two.release()
    assert not reader.first_audio_awaited()
    two.await_first_audio(awaited=True)  # too late to count
    assert not reader.first_audio_awaited()
    other = BoardReader(tmp_path, server=os.getppid() + 1)
    one.await_first_audio(awaited=True)
    assert not other.first_audio_awaited(), "of another server"
    board.close()
    assert not reader.first_audio_awaited()


def test_ids_tell_the_caller_and_the_public_request(tmp_path: Path) -> None:
    board = CallBoard(tmp_path)
    mine, other = board.token("a!b"), board.token("a!b")
    one, again, two = board.call(mine), board.call(mine), board.call(other)
    assert one.request_id != again.request_id
    assert owner_of(one.request_id) == owner_of(again.request_id)
    assert caller_id(one.request_id) == "a!b"
    assert caller_id("plain") == "plain"
    assert owner_of(one.request_id) != owner_of(two.request_id)
    assert owner_of("plain") == "plain"
    third = board.call(mine, made_again=True)
    assert [is_made_again(call.request_id) for call in (one, third)] == [False, True]
    assert owner_of(third.request_id) == owner_of(one.request_id)
    assert caller_id(third.request_id) == "a!b"
    assert BoardReader(tmp_path).watch(third.request_id) is not None
    assert not is_made_again("gsv+!")


def test_a_board_without_a_free_slot_refuses(tmp_path: Path) -> None:
    board = CallBoard(tmp_path)
    tokens = [board.token("") for _ in range(SLOTS)]
    with pytest.raises(Overloaded, match="4096 callers"):
        board.token("")
    tokens[0].release()
    board.token("")


def test_a_call_is_lost_with_the_process_that_took_it(tmp_path: Path) -> None:
    board = CallBoard(tmp_path)
    call = board.call(board.token("x"))
    assert not call.handler_died(), "nobody has begun"
    script = (
        "import sys; from pathlib import Path\n"
        "from gsv.serving.backend.call_board import BoardReader\n"
        "BoardReader(Path(sys.argv[1]), int(sys.argv[2])).take(sys.argv[3])\n"
        "print('taken', flush=True); sys.stdin.read()\n"
    )
    arguments = [str(tmp_path), str(os.getppid()), call.request_id]
    handler = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with handler:
        assert handler.stdout is not None
        assert handler.stdout.readline() == b"taken\n"
        assert not call.handler_died()
        handler.kill()
        os.waitid(os.P_PID, handler.pid, os.WEXITED | os.WNOWAIT)
        assert call.handler_died(), "also before anybody has waited for it"
    assert call.handler_died()
    call.release()
    assert not board.call(board.token("y")).handler_died(), "a cell that is used again is clean"


def test_a_board_without_a_free_cell_refuses(tmp_path: Path) -> None:
    board = CallBoard(tmp_path)
    token = board.token("")
    calls = [board.call(token) for _ in range(CALLS)]
    with pytest.raises(Overloaded, match="8192 calls"):
        board.call(token)
    calls[0].release()
    board.call(token)
