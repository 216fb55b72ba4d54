"""The vocoder's stage with the tiny network: answers, pauses, turns, and what it refuses."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from acoustic_models import vocoder
from golden import vocoder_config

from gsv.errors import Cancelled, InvalidRequest
from gsv.stages.base import Load, Place
from gsv.stages.messages import WaveRequest, WaveResult
from gsv.stages.vocoder import CPU_WINDOW, CUDA_WINDOW, Settings, VocoderStage, window_limits

WAIT = 30  # seconds; only a failing test waits that long


class Answer:
    """A reply that a test waits for."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def send(self, result: WaveResult, *, final: bool) -> None:
        assert final
        self._queue.put(result)

    def finish(self) -> None:
        raise AssertionError("one response, which is the final one")

    def fail(self, error: BaseException) -> None:
        self._queue.put(error)

    def get(self) -> Any:
        return self._queue.get(timeout=WAIT)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VocoderStage]:
    folder: Path = tmp_path_factory.mktemp("vocoder")
    vocoder_config("tiny").save(folder / "vocoder.json")
    safetensors.torch.save_file(vocoder("tiny").state_dict(), folder / "vocoder.safetensors")
    made = VocoderStage(Place(folder), Settings(dtype="float32", window=40))
    made.warm_up()
    yield made
    made.close()


def request(*frames: int, **changes: Any) -> WaveRequest:
    rng = np.random.default_rng(sum(frames))
    mel = (rng.standard_normal((100, sum(frames))) * 2 - 5).astype(np.float32)
    return WaveRequest(mel, np.array(frames, np.int32), **changes)


def answer(stage: VocoderStage, asked: WaveRequest) -> Any:
    reply = Answer()
    stage.submit(asked, reply)
    return reply.get()


@pytest.mark.parametrize("turn", [{}, {"listener_waits": 1}, {"listener_seconds": 0.5}])
def test_an_answer_is_the_waves_and_the_pauses(stage: VocoderStage, turn: dict[str, Any]) -> None:
    pauses = np.array([0.0, 0.1, 0.2], np.float32)
    asked = request(100, 30, pauses=pauses, sample_rate=48000, owner="a", **turn)
    result = answer(stage, asked)
    assert result.sample_rate == 48000
    assert len(result.audio) == 480 * 130 + round(48000 * 0.3)
    with torch.inference_mode():
        first = vocoder("tiny")(torch.from_numpy(asked.mel[None, :, :100]))[0, 0].numpy()
        second = vocoder("tiny")(torch.from_numpy(asked.mel[None, :, 100:]))[0, 0].numpy()
    np.testing.assert_allclose(result.audio[:48000], first, atol=1e-6)
    assert not result.audio[48000 : 48000 + 4800].any()
    np.testing.assert_allclose(result.audio[52800 : 52800 + 14400], second, atol=1e-6)


def test_pauses_of_a_text_add_up(stage: VocoderStage) -> None:
    """As the text frontend lets them: to 300 s, beside the usual ones."""
    pauses = np.array([0.0, 15.0, 10.0], np.float32)
    assert len(answer(stage, request(5, 5, pauses=pauses)).audio) > 25 * 24_000
    request(5, 5, pauses=np.array([0.0, 300.0, 0.3], np.float32))
    for wrong in ([0.0, 301.0, 0.3], [0.0, -1.0, 0.3], [300.0, 300.0, 0.0], [0.0, np.nan, 0.3]):
        with pytest.raises(InvalidRequest, match="PAUSES: .* 0 to 300 s"):
            request(5, 5, pauses=np.array(wrong, np.float32))


def test_company_changes_nothing(stage: VocoderStage) -> None:
    asked = [request(90 + n, 20, listener_waits=n % 2, owner=str(n)) for n in range(6)]
    alone = [answer(stage, one).audio for one in asked]
    replies = [Answer() for _ in asked]
    for one, reply in zip(asked, replies, strict=True):
        stage.submit(one, reply)
    for reply, audio in zip(replies, alone, strict=True):
        np.testing.assert_array_equal(reply.get().audio, audio)


def test_the_load_is_that_of_the_engine(stage: VocoderStage) -> None:
    before = stage.load()
    answer(stage, request(100))
    after = stage.load()
    assert after == Load(0, 0, after.steps, after.rows)
    assert after.steps - before.steps > 1  # windows


def test_a_request_can_be_called_off(stage: VocoderStage) -> None:
    reply = Answer()
    stage.submit(request(5000), reply)()
    assert isinstance(reply.get(), Cancelled)


def test_seconds_below_none_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="LISTENER_SECONDS"):
        request(10, listener_seconds=-1.0)


def test_windows_are_the_devices_unless_chosen() -> None:
    assert window_limits("cpu").frames == CPU_WINDOW
    assert window_limits("cpu").batch_frames == 0
    assert window_limits("cuda:0").frames == CUDA_WINDOW
    assert window_limits("cuda:0", 128).frames == 128
