"""Where the chunks of a stream meet, nothing is to be heard: on speech of the demo voice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from joints import click, level_jump

from gsv.config import VocoderConfig
from gsv.constants import SAMPLES_PER_FRAME
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
