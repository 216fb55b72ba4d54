"""Requests in a voice: its defaults, its pinned content, and what happens when it is replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from voices.voice_files import make_voice

from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.stages.calls import CancelScope
from gsv.stages.speech import PublicRequest, in_one_voice
from gsv.voices import VoiceFolder

SAMPLING = "[sampling]\ntop_k = 5\nspeed = 1.25\nsample_steps = 8"


@pytest.fixture
def voices(tmp_path: Path) -> VoiceFolder:
    make_voice(tmp_path / "alice", SAMPLING)
    make_voice(tmp_path / "bob")
    return VoiceFolder(tmp_path, "bob")


class NoModels:
    """Nothing is called here; a caller's name is all that is asked for."""

    def token(self, request_id: str) -> NoModels:
        return self

    def cancel(self) -> None:
        pass

    def await_first_audio(self, *, awaited: bool) -> None:
        pass

    def release(self) -> None:
        pass


def scope() -> CancelScope:
    return CancelScope(NoModels())  # type: ignore[arg-type]


def test_what_a_request_leaves_out_is_the_voices(voices: VoiceFolder) -> None:
    filled = PublicRequest(text="a", voice="alice", speed=1.0).resolved(voices).filled()
    assert (filled.top_k, filled.speed, filled.sample_steps) == (5, 1.0, 8)
    assert filled.top_p == 1.0
    assert filled.voice == voices.get("alice").pinned


def test_a_voice_without_defaults_leaves_the_interface_s(voices: VoiceFolder) -> None:
    filled = PublicRequest(text="a").resolved(voices).filled()
    assert (filled.top_k, filled.speed, filled.sample_steps) == (15, 1.0, 32)
    assert filled.voice == voices.get("bob").pinned


def test_a_recording_of_ones_own_has_no_voice(voices: VoiceFolder) -> None:
    given = PublicRequest(
        text="a",
        reference_audio=np.zeros(80_000, np.float32),
        reference_sample_rate=16_000,
        reference_text="b",
    )
    assert given.resolved(voices) is given


def test_a_replaced_voice_is_spoken_anew(voices: VoiceFolder, tmp_path: Path) -> None:
    heard: list[str] = []

    def speak(request: PublicRequest, calls: CancelScope) -> None:
        heard.append(request.voice)
        calls.cancel()  # as a failing stream does; the next attempt must not suffer from it
        if len(heard) == 1:
            make_voice(tmp_path / "alice", text="Replaced.")
            raise GsvError("changed, as some stage found")

    in_one_voice(PublicRequest(text="a", voice="alice"), voices, scope(), speak)
    assert heard[1] == voices.get("alice").pinned != heard[0]


def test_a_removed_voice_gets_its_error(voices: VoiceFolder, tmp_path: Path) -> None:
    def speak(request: PublicRequest, calls: CancelScope) -> None:
        (tmp_path / "alice" / "voice.toml").unlink()
        raise GsvError("gone")

    with pytest.raises(InvalidRequest, match="VOICE: got 'alice'; allowed: bob"):
        in_one_voice(PublicRequest(text="a", voice="alice"), voices, scope(), speak)


def test_other_errors_and_begun_answers_are_not_tried_again(
    voices: VoiceFolder, tmp_path: Path
) -> None:
    calls = []

    def speak(request: PublicRequest, inner: CancelScope) -> None:
        calls.append(request.voice)
        raise GsvError("broken")

    request = PublicRequest(text="a", voice="alice")
    with pytest.raises(GsvError, match="broken"):
        in_one_voice(request, voices, scope(), speak)
    assert len(calls) == 1

    def change(request: PublicRequest, inner: CancelScope) -> None:
        make_voice(tmp_path / "alice", text=f"Number {len(calls)}.")
        speak(request, inner)

    with pytest.raises(GsvError, match="broken"):
        in_one_voice(request, voices, scope(), change, lambda: True)
    assert len(calls) == 2
    with pytest.raises(GsvError, match="broken"):  # nobody replaces a voice that often
        in_one_voice(request, voices, scope(), change)
    assert len(calls) < 10


def test_cancelling_the_caller_cancels_the_attempt(voices: VoiceFolder) -> None:
    outer = scope()

    def speak(request: PublicRequest, inner: CancelScope) -> None:
        outer.cancel()
        assert inner.cancelled.is_set()
        raise Cancelled("gone")

    with pytest.raises(Cancelled):
        in_one_voice(PublicRequest(text="a"), voices, outer, speak)
