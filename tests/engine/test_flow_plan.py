"""Chunks of a sentence, and upstream's whole sequential way from tokens to the wave."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from acoustic_models import sovits, vocoder
from golden import load_case, sizes
from torch import Tensor

from gsv import audio
from gsv.constants import STYLE_BINS
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.flow.planner import Reference, sentence_requests
from gsv.engine.vocoder_windows import vocode

pytestmark = pytest.mark.usefixtures("no_grad")


def drive(
    reference: Reference, condition: Tensor, window: int = 1000
) -> tuple[list[FlowRequest], Tensor]:
    """The requests of a sentence, answered with mels that count their frames, and its mel."""
    plan = sentence_requests(reference, condition, steps=4, seed=7, sentence=2, window=window)
    requests: list[FlowRequest] = []
    frame = 0
    try:
        request = next(plan)
        while True:
            requests.append(request)
            new = request.frames - request.prompt_frames
            mel = torch.arange(frame, frame + new).repeat(3, 1)
            frame += new
            request = plan.send(mel)
    except StopIteration as finished:
        return requests, finished.value


def test_chunks_follow_each_other() -> None:
    reference = Reference(torch.full((2, 4), -1.0), torch.full((3, 4), -1.0))
    condition = torch.arange(14.0).repeat(2, 1)
    requests, mel = drive(reference, condition, window=10)
    assert [request.first_frame for request in requests] == [0, 6, 12]
    assert [(request.seed, request.sentence, request.steps) for request in requests] == [
        (7, 2, 4)
    ] * 3
    assert requests[0].condition[0].tolist() == [-1, -1, -1, -1, 0, 1, 2, 3, 4, 5]
    assert requests[1].condition[0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert requests[1].prompt[0].tolist() == [2, 3, 4, 5]
    assert requests[2].condition[0].tolist() == [8, 9, 10, 11, 12, 13]
    assert mel[0].tolist() == list(range(14))


def test_a_sentence_without_frames() -> None:
    requests, mel = drive(Reference(torch.zeros(2, 4), torch.zeros(3, 4)), torch.zeros(2, 0))
    assert requests == []
    assert mel.shape == (3, 0)


@pytest.mark.parametrize(
    ("condition", "mel", "expected"), [(700, 600, (100, 600)), (40, 50, (0, 40)), (9, 9, (0, 9))]
)
def test_reference_is_cut_to_the_last_frames(
    condition: int, mel: int, expected: tuple[int, int]
) -> None:
    reference = Reference.trimmed(torch.arange(condition)[None], torch.arange(mel)[None])
    assert (reference.mel[0, 0], reference.mel[0, -1] + 1) == expected
    assert torch.equal(reference.mel, reference.condition)
    assert reference.frames <= 500


@pytest.mark.parametrize("size", sizes("acoustic_sequential"))
def test_sequential_way(size: str) -> None:
    case = load_case(f"{size}_acoustic_sequential")
    model = sovits(size)
    wave = torch.from_numpy(case.inputs["wav_i16"].astype(np.float32) / 32768).mean(0)
    timbre = model.style(audio.spectrum(wave)[None, :STYLE_BINS])
    prompt, _ = model.condition(
        case.tensor("prompt_semantic")[None], None, case.tensor("prompt_phones")[None], None, timbre
    )
    condition, _ = model.condition(
        case.tensor("target_semantic")[0], None, case.tensor("target_phones"), None, timbre
    )
    frames = case.meta["T_min"]
    mel = audio.normalize_mel(audio.log_mel(wave))
    reference = Reference.trimmed(prompt[0], mel, limit=frames)
    window = frames + case.meta["chunk_frames"][0]
    plan = sentence_requests(reference, condition[0], 4, seed=0, sentence=0, window=window)
    engine = FlowEngine(model.flow)
    engine.start()
    made = None
    try:
        request = next(plan)
        for index in range(len(case.meta["chunk_frames"])):
            noise = case.tensor(f"noise{index}")[0, :, request.prompt_frames :]
            request = plan.send(engine.run(dataclasses.replace(request, noise=noise)))
    except StopIteration as finished:
        made = audio.denormalize_mel(finished.value)
    finally:
        engine.stop()
    assert made is not None
    case.check("mel", made[None])
    (sound,) = vocode(vocoder(size), [made], limit=200)
    assert len(sound) == case.outputs["audio_len"]
    case.check("audio_every5th", sound[::5])
