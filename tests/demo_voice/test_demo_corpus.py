"""The corpus: what is stored, that it goes on where it was stopped, and that it can be remade."""

from __future__ import annotations

from pathlib import Path

import codes
import corpus
import numpy as np
import pytest
import teachers
import torch
from data import Corpus, Cutter
from toy_teachers import PHONE_SECONDS, TEXTS, ToyTeacher

from gsv.constants import MEL_HOP


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A part of five texts by a toy teacher."""
    toys = {"slt": teachers.Teacher("slt", ToyTeacher(200.0))}
    monkeypatch.setattr(corpus, "TEACHERS", toys)
    stem = tmp_path / "corpus" / "slt" / "0000"
    corpus.speak(stem, "slt", TEXTS[:5], corpus.Reader())
    return stem


def test_an_utterance_is_trimmed_and_aligned(part: Path) -> None:
    read = Corpus([(0, part)])
    assert read.texts == list(TEXTS[:5])
    for i in range(len(read)):
        ends = read.ends[i] / 10_000
        # Silence before the first phone, then every phone its time, then the mark.
        np.testing.assert_allclose(np.diff(ends[:-1]), PHONE_SECONDS, atol=1e-3)
        assert ends[0] == pytest.approx(corpus.LEAD_SECONDS + PHONE_SECONDS, abs=1e-3)
        assert ends[-1] == pytest.approx(len(read.waves[i]) / 32_000, abs=1e-3)
        assert len(read.mels[i]) == len(read.waves[i]) // MEL_HOP
        loud = np.sqrt(np.mean((read.waves[i] / 32_768.0) ** 2))
        assert loud == pytest.approx(corpus.LEVEL, rel=0.01)


def test_a_part_that_is_there_is_not_made_again(
    part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(texts: object) -> list[corpus.Spoken]:
        raise AssertionError("spoken again")

    monkeypatch.setattr(corpus, "TEACHERS", {"slt": teachers.Teacher("slt", refuse)})
    corpus.speak(part, "slt", TEXTS[:5], corpus.Reader())
    with pytest.raises(AssertionError, match="spoken again"):
        corpus.speak(part.with_name("0001"), "slt", TEXTS[:5], corpus.Reader())


def test_waves_are_made_again_from_the_rows(part: Path) -> None:
    sounds = [part.with_name(f"0000.{kind}.npy") for kind in ("waves", "mels")]
    before = [path.read_bytes() for path in sounds]
    assert corpus.speak_again(part, "slt") == 0
    for path in sounds:
        path.unlink()
    assert corpus.speak_again(part, "slt") == 0
    assert [path.read_bytes() for path in sounds] == before


def test_waves_that_come_out_otherwise_are_counted(
    part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part.with_name("0000.mels.npy").unlink()
    other = {"slt": teachers.Teacher("slt", ToyTeacher(150.0))}
    monkeypatch.setattr(corpus, "TEACHERS", other)
    assert corpus.speak_again(part, "slt") == 5


def test_a_text_that_the_teacher_reads_otherwise_is_left_out() -> None:
    reading = corpus.Reader().read(TEXTS[0])
    assert reading is not None
    (spoken,) = ToyTeacher(200.0)([TEXTS[0]])
    assert corpus.utterance(TEXTS[0], reading, spoken) is not None
    (other,) = ToyTeacher(200.0)(["Nobody else went there so early in the morning."])
    assert corpus.utterance(TEXTS[0], reading, other) is None


def test_the_judged_texts_are_everything_that_is_measured() -> None:
    assert len(set(corpus.JUDGED)) == 20 + 3 + 100 + 1
    assert [len(texts) for _, _, texts in corpus.jobs(["slt"], 250)] == [124, 100, 100, 50]


def test_held_out_utterances_are_each_teachers_last(run: Path) -> None:
    import data

    read = codes.read("corpus")
    learned = read.learned()
    assert len(read) == 80
    assert len(learned) == 80 - 2 * data.HELD_OUT == 72
    assert not {36, 39, 76, 79} & set(learned.tolist())


class TestCodes:
    def test_tokens_tell_their_phoneme(self, run: Path) -> None:
        book, said = codes.Codebook.load(), codes.Tokenized.load("corpus")
        read = codes.read("corpus")
        right = []
        for i in range(0, len(said), 9):
            labels = codes.class_labels(read, i)
            told = book.codes[said.tokens[i][: len(labels)], : codes.CLASSES].argmax(1)
            right.append(float((told == labels).mean()))
            assert len(said.tokens[i]) == codes.expected_tokens(len(read.waves[i]))
        # All of them with real teachers; the toys' phones are too few to make codes of.
        assert np.mean(right) > 0.9

    def test_pitch_is_counted_from_each_teachers_own(self, run: Path) -> None:
        """The two toys differ by nearly an octave and say the same on the same melody."""
        book = codes.Codebook.load()
        assert book.pitches[0, 0] - book.pitches[1, 0] == pytest.approx(np.log2(200 / 110), abs=0.1)
        read = codes.read("corpus")
        one, other = (book.targets(read, i)[:, codes.PITCH] for i in (0, 40))
        both = (one[: len(other)] != 0) & (other[: len(one)] != 0)
        assert both.sum() > 10
        assert np.corrcoef(one[: len(other)][both], other[: len(one)][both])[0, 1] > 0.9

    def test_a_voiceless_token_has_no_pitch(self, run: Path) -> None:
        book, read = codes.Codebook.load(), codes.read("corpus")
        labels = codes.class_labels(read, 0)
        silent = book.targets(read, 0)[: len(labels)][labels == 0]
        assert (silent[:, codes.PITCH] == 0).all()


class TestParts:
    """Of parts whose rows alone are there, texts and phonemes can be learned, but no sound."""

    def test_a_part_without_sound_has_empty_waves(self, part: Path) -> None:
        corpus.speak(part.with_name("0001"), "slt", TEXTS[5:9], corpus.Reader())
        for kind in ("waves", "mels"):
            part.with_name(f"0001.{kind}.npy").unlink()
        read = Corpus.parts(part.parents[1], ["slt"])
        assert len(read) == 9
        assert len(read.phonemes[8]) > 0
        assert (read.mels.lengths() > 0).tolist() == [True] * 5 + [False] * 4
        assert len(read.waves[8]) == 0

    def test_what_is_held_out_has_sound(self, run: Path) -> None:
        last = run / "corpus" / "slt" / "0001"
        for kind in ("waves", "mels"):
            last.with_name(f"{last.name}.{kind}.npy").unlink()
        read = codes.read("corpus")
        held, learned = read.held_out(), read.learned()
        assert not set(held) & set(learned)
        assert (read.mels.lengths()[np.concatenate([held, learned])] > 0).all()
        assert (read.teachers[held] == 0).sum() == 4

    def test_so_many_of_each_teacher_are_named(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [(stem.name, teacher) for stem, teacher in corpus.parts(1)]
        assert found == [("rms", "rms"), ("slt", "slt"), ("0000", "rms"), ("0000", "slt")]


@pytest.mark.parametrize("kind", ["waves", "mels"])
def test_spans_are_the_same_from_memory_as_from_files(run: Path, kind: str) -> None:
    rows = getattr(codes.read("corpus"), kind)
    device = torch.device("cpu")
    files, memory = Cutter(rows, device), Cutter(rows, device)
    memory._flat = rows.joined(device)
    chosen, firsts = np.array([3, 0, len(rows) - 1]), np.array([2, 0, 5])
    one, other = (cutter.spans(chosen, firsts, 7) for cutter in (files, memory))
    assert torch.equal(one, other)
    assert torch.equal(one[0], torch.from_numpy(rows[3][2:9].astype(np.float32)))
