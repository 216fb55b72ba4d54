"""The measures: what they say of speech whose answer is known."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import corpus
import measure
import numpy as np
import pitch
import places
import pytest
from toy_teachers import TEXTS, ToyTeacher

from gsv.constants import OUTPUT_RATE, REFERENCE_RATE


def pulses(contour: np.ndarray, rate: int) -> np.ndarray:
    """A train of pulses, softened, whose pitch in Hz is ``contour`` for each sample."""
    phase = np.cumsum(contour / rate)
    wave = np.diff(np.floor(phase), prepend=0.0)
    return np.convolve(wave, np.hanning(rate // 800), "same").astype(np.float32)


class TestPitch:
    @pytest.mark.parametrize("hertz", [80.0, 120.0, 200.0, 333.0])
    @pytest.mark.parametrize("rate", [16_000, 48_000])
    def test_a_steady_pitch_is_found(self, hertz: float, rate: int) -> None:
        found = pitch.track(pulses(np.full(rate, hertz), rate), rate)
        assert len(found) == 100
        inner = found[5:-5]
        assert (inner > 0).all()
        np.testing.assert_allclose(inner, hertz, rtol=0.02)

    def test_a_glide_is_followed(self) -> None:
        contour = np.linspace(120, 240, 32_000)
        found = pitch.track(pulses(contour, 16_000), 16_000)
        wanted = contour[80::160][: len(found)]
        np.testing.assert_allclose(found[8:-8], wanted[8:-8], rtol=0.03)

    def test_noise_and_silence_have_none(self) -> None:
        noise = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
        assert (pitch.track(noise, 16_000) > 0).mean() < 0.1
        assert not pitch.track(np.zeros(16_000, np.float32), 16_000).any()
        assert len(pitch.track(np.zeros(10, np.float32), 16_000)) == 0

    def test_correlation(self) -> None:
        one = np.array([100, 110, 120, 0, 140] * 4, np.float32)
        pairs = np.stack([np.arange(20)] * 2, 1)
        assert pitch.correlation(one, 2 * one, pairs)[0] == pytest.approx(1.0)
        assert pitch.correlation(one, np.where(one > 0, 3e4 / np.maximum(one, 1), 0), pairs)[
            0
        ] == pytest.approx(-1.0)
        assert pitch.correlation(np.full(20, 200, np.float32), one, pairs)[0] == 0.0

    def test_matching_undoes_another_tempo(self) -> None:
        rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
        pairs = pitch.matched(rows, np.repeat(rows, 2, axis=0))
        assert {(i, j // 2) for i, j in pairs.tolist()} == {(i, i) for i in range(30)}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyTeacher:
    """A toy teacher, whose judged sentences are stored as ``slt``'s."""
    import teachers

    monkeypatch.setattr(places, "RUN", tmp_path)
    teacher = ToyTeacher(200.0)
    monkeypatch.setattr(corpus, "TEACHERS", {"slt": teachers.Teacher("slt", teacher)})
    corpus.speak(tmp_path / "judged" / "slt", "slt", TEXTS[:3], corpus.Reader())
    return teacher


def spoken(teacher: ToyTeacher, text: str, times: int = 1) -> np.ndarray:
    import soxr

    wave = soxr.resample(teacher([text])[0].wave, REFERENCE_RATE, OUTPUT_RATE)
    return np.tile(wave, times)


def test_the_teachers_own_speech_has_its_melody(toy: ToyTeacher) -> None:
    taught = measure.Teacher("slt")
    found, spread = measure.melody(taught.answer(TEXTS[0], spoken(toy, TEXTS[0])))
    assert found > 0.9
    assert spread > 1.5


def test_another_melody_is_told(toy: ToyTeacher) -> None:
    class Still(ToyTeacher):
        def __call__(self, texts: object) -> list[corpus.Spoken]:
            (one,) = super().__call__(texts)  # type: ignore[arg-type]
            rate = REFERENCE_RATE
            wave = pulses(np.full(len(one.wave), 200.0), rate) * (np.abs(one.wave) > 0)
            return [corpus.Spoken(wave.astype(np.float32), one.phones, one.ends)]

    taught = measure.Teacher("slt")
    found, spread = measure.melody(taught.answer(TEXTS[0], spoken(Still(200.0), TEXTS[0])))
    assert abs(found) < 0.5
    assert spread < 0.5


def test_the_report(toy: ToyTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        """Tells waves apart by their pitch."""

        def __init__(self, device: str, verbose: bool) -> None: ...

        def embed_utterance(self, wave: np.ndarray) -> np.ndarray:
            track = pitch.track(wave, 16_000)
            low = np.median(track[track > 0]) < 150
            return np.array([1.0, 0.0]) if low else np.array([0.0, 1.0])

    mos = types.SimpleNamespace(run=lambda wave, rate: {"ovrl_mos": float(np.abs(wave).max())})
    monkeypatch.setitem(sys.modules, "speechmos", types.SimpleNamespace(dnsmos=mos))
    monkeypatch.setitem(sys.modules, "resemblyzer", types.SimpleNamespace(VoiceEncoder=Encoder))
    monkeypatch.setattr(measure, "installed", lambda package: True)
    low = ToyTeacher(110.0)

    def speak(voice: str, text: str) -> np.ndarray:
        # The first voice speaks one text three times over; the other one sounds like the first.
        return spoken(toy, text, times=3 if (voice, text) == ("one", TEXTS[1]) else 1)

    references = {"one": toy([TEXTS[2]])[0].wave, "two": low([TEXTS[2]])[0].wave}
    report = measure.measure(
        speak, {"one": "slt", "two": "slt"}, references, tmp_path / "out", {"set": TEXTS[:2]}
    )
    assert report["one"]["set"]["too_long"] == 1
    assert report["two"]["set"]["too_long"] == 0
    assert report["one"]["set"]["dnsmos"] == {"ovrl_mos": 0.7}
    assert report["one"]["told_apart"] == 1.0
    assert report["two"]["told_apart"] == 0.0
    assert report["one"]["set"]["pitch_correlation"] > 0.5
    assert json.loads((tmp_path / "out" / "measures.json").read_text()) == report
    assert (tmp_path / "out" / "one.png").stat().st_size > 1_000
