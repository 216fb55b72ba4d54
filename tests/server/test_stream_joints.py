"""Where the chunks of a stream meet, nothing is to be heard: on speech of the demo voice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from joints import click, level_jump

from gsv.config import VocoderConfig
from gsv.constants import FRAMES_PER_TOKEN, SAMPLES_PER_FRAME
from gsv.engine.gpt.judge import Judge, Limits, Signal
from gsv.offline import Offline

pytestmark = pytest.mark.server

SPEECH = {
    "text": "The children walked along the road to the old house and looked at the river.",
    "language": "en", "voice": "demo", "seed": 1, "split_method": "cut0",
}  # fmt: skip
SMALL = {"first_chunk_seconds": "0.3", "largest_chunk_seconds": "0.3"}


@pytest.fixture(scope="module")
def voice_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice") / "model_repository"
    prepare = [sys.executable, "-c", "from gsv.commands.prepare import prepare; prepare()"]
    command = [*prepare, "--demo", "voice", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_joints_are_no_rougher_than_speech_itself(voice_repository: Path) -> None:
    vocoder = voice_repository / "vocoder" / "1" / "vocoder.json"
    with Offline(voice_repository, settings={"gpt_sovits_v4_stream": SMALL}) as offline:
        whole = offline.say(**SPEECH).audio
        chunks = [chunk.audio for chunk in offline.stream(**SPEECH)]
    samples = np.concatenate(chunks)
    seams = np.cumsum([len(chunk) for chunk in chunks])[:-1]  # of the wave
    leased = VocoderConfig.load(vocoder).context_frames * SAMPLES_PER_FRAME
    fades = seams + leased  # of the mel, whose last frames the vocoder keeps back
    joints = [int(joint) for joint in [*seams, *fades] if joint < len(samples) - leased]
    assert len(seams) >= 8
    assert abs(len(samples) - len(whole)) <= SAMPLES_PER_FRAME
    # The same places of the answer that was made in one piece are the measure.
    assert click(samples, joints) < 1.25 * max(1.0, click(whole, joints))
    assert level_jump(samples, joints) < 1.25 * max(0.5, level_jump(whole, joints))


CUT = 60  # tokens after which the guard finds trouble, when some chunks have left


class Suspicious(Judge):
    """A judge that finds trouble in every first drawing."""

    drawings = 0

    def __init__(self, limits: Limits, max_tokens: int = 1500) -> None:
        super().__init__(limits, max_tokens)
        Suspicious.drawings += 1
        self._first = Suspicious.drawings == 1
        self._seen = 0

    def read(self, tokens: Iterable[int]) -> Signal | None:
        for token in tokens:
            super().read((token,))
            self._seen += 1
            if self._first and self._seen == CUT:
                self._signal = Signal.LOOP
        return self._signal


def test_where_the_guard_drew_the_rest_again_nothing_is_to_be_heard(
    voice_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The voice's own top_k is 1, with which every drawing is the same.
    speech = {**SPEECH, "top_k": 15, "repetition_penalty": 1.35}
    with Offline(voice_repository, settings={"gpt_sovits_v4_stream": SMALL}) as offline:
        plain = list(offline.stream(**speech))
        monkeypatch.setattr("gsv.engine.gpt.guard.Judge", Suspicious)
        chunks = list(offline.stream(**speech, outputs=frozenset({"REPORT"})))
    reported = [entry for chunk in chunks for entry in json.loads(chunk.report)]
    assert [entry["retries"] for entry in reported] == [["loop"]]
    samples, before = (np.concatenate([c.audio for c in made]) for made in (chunks, plain))
    cut = CUT * FRAMES_PER_TOKEN * SAMPLES_PER_FRAME
    # The same up to there but for what the network hears of its future, and something else after.
    assert len(chunks[0].audio) == len(plain[0].audio)
    assert len(samples) != len(before) or np.abs(samples[cut:] - before[cut:]).max() > 0.01
    reach = 20 * SAMPLES_PER_FRAME
    places = range(reach, len(samples) - reach, SAMPLES_PER_FRAME)
    for measure in (click, level_jump):
        usual = np.quantile([measure(samples, [place]) for place in places], 0.99)
        assert measure(samples, [cut]) <= 1.25 * max(1.0, usual)
