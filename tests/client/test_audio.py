"""Audio: conversion, files, growing WAVs."""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gsv_client import Audio, AudioError, Chunk, InvalidRequest, WavWriter
from gsv_client.wav_header import UNKNOWN_SIZE, wav_header

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, RATE).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0),
        (1.0, 32_767),
        (-1.0, -32_768),
        (0.5, 16_384),
        (1.5, 32_767),
        (-1.5, -32_768),
        (1e30, 32_767),
        (0.4 / 32_768, 0),
        (0.6 / 32_768, 1),
        (-0.6 / 32_768, -1),
    ],
)
def test_pcm16_rounds_and_clips(value: float, expected: int) -> None:
    assert Audio(np.array([value]), RATE).pcm16().tolist() == [expected]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_made_a_click(value: float) -> None:
    with pytest.raises(AudioError, match="not numbers"):
        Audio(np.array([0.0, value]), RATE).pcm16()


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(np.zeros((2, 3)), RATE), (np.zeros(3, np.int16), RATE), (np.zeros(3), 0),
     (np.zeros(3), 1.5), (np.zeros(3), True)],
)  # fmt: skip
def test_what_is_no_wave_is_refused(samples: np.ndarray, rate: float) -> None:
    with pytest.raises(InvalidRequest, match="allowed"):
        Audio(samples, rate)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["wav", "wav-float", "flac"])
@pytest.mark.parametrize("target", ["path", "file"])
def test_saved_and_read_again(tmp_path: Path, format: str, target: str) -> None:
    audio = Audio(NOISE, RATE)
    path = tmp_path / "a.bin"
    if target == "path":
        audio.save(path, format)
    else:
        with path.open("wb") as file:
            audio.save(file, format)
    again = Audio.read(path)
    assert again.rate == RATE
    tolerance = 0 if format == "wav-float" else 0.5 / 32_768
    np.testing.assert_allclose(again.samples, audio.samples, rtol=0, atol=tolerance)


def test_the_suffix_tells_the_format(tmp_path: Path) -> None:
    for name, kind in (("a.wav", "WAV"), ("b.FLAC", "FLAC")):
        Audio(NOISE, RATE).save(tmp_path / name)
        assert soundfile.info(tmp_path / name).format == kind
    Audio(NOISE, RATE).save(tmp_path / "c.raw")
    assert (tmp_path / "c.raw").stat().st_size == 2 * len(NOISE)
    with pytest.raises(AudioError, match=r"'.mp3' is not one of a known format; allowed: .wav"):
        Audio(NOISE, RATE).save(tmp_path / "d.mp3")
    with pytest.raises(AudioError, match=r"got 'ogg'; allowed: wav, wav-float, flac, raw"):
        Audio(NOISE, RATE).save(tmp_path / "d.wav", "ogg")
    assert not (tmp_path / "d.mp3").exists()


def test_the_standard_library_reads_our_wav(tmp_path: Path) -> None:
    Audio(NOISE, RATE).save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.readframes(-1 & 0xFFFFFF) == Audio(NOISE, RATE).pcm16().tobytes()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="No such file or directory"):
        Audio(NOISE, RATE).save(tmp_path / "none" / "a.wav")


def test_references_of_any_container_become_mono(tmp_path: Path) -> None:
    stereo = np.stack([NOISE, -0.5 * NOISE], axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 44_100)
    soundfile.write(tmp_path / "a.ogg", stereo, 44_100)
    audio = Audio.read(tmp_path / "a.flac")
    assert (audio.rate, audio.samples.dtype) == (44_100, np.float32)
    np.testing.assert_allclose(audio.samples, NOISE / 4, atol=1e-4)
    assert Audio.read(tmp_path / "a.ogg").duration == audio.duration


def test_references_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"text\.wav: "):
        Audio.read(tmp_path / "text.wav")
    with pytest.raises(AudioError, match=r"missing\.wav"):
        Audio.read(tmp_path / "missing.wav")
    soundfile.write(tmp_path / "long.wav", np.zeros(8_000 * 121), 8_000)
    with pytest.raises(AudioError, match=r"121 s long; allowed for a reference: 3 to 10 s"):
        Audio.read(tmp_path / "long.wav")
    with pytest.raises(InvalidRequest, match="an Audio, a path, or a tuple"):
        Audio.of(NOISE)  # type: ignore[arg-type]


def test_whatever_a_caller_has() -> None:
    audio = Audio(NOISE, RATE)
    assert Audio.of(audio) is audio
    np.testing.assert_array_equal(Audio.of((NOISE, RATE)).samples, NOISE)
    np.testing.assert_allclose(
        Audio.of((np.array([16_384, -32_768], np.int16), RATE)).samples, [0.5, -1.0]
    )
    for shape in ((2, RATE), (RATE, 2)):
        assert Audio.of((np.ones(shape), RATE)).samples.shape == (RATE,)


def test_joined_pieces_are_of_one_rate() -> None:
    chunks = [Chunk(NOISE[:10], RATE, sentence=0), Chunk(NOISE[10:], RATE, sentence=1)]
    np.testing.assert_array_equal(Audio.join(chunks).samples, NOISE)
    with pytest.raises(InvalidRequest, match=r"\[8000, 16000\]"):
        Audio.join([Audio(NOISE, RATE), Audio(NOISE, 8_000)])
    with pytest.raises(InvalidRequest, match=r"\[\]"):
        Audio.join([])


@pytest.mark.parametrize("format", ["wav", "wav-float"])
def test_a_growing_file_is_whole_after_each_chunk(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.wav"
    with WavWriter(path, format) as writer:
        for count in (1, 2, 3):
            writer.write(Audio(NOISE, RATE))
            assert soundfile.info(path).frames == count * RATE
            assert Audio.read(path).duration == writer.duration == count
    size = path.stat().st_size
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] == size - 8


def test_a_file_object_is_left_open_and_what_was_in_it_stays() -> None:
    file = io.BytesIO(b"before")
    file.seek(0, os.SEEK_END)
    with WavWriter(file) as writer:
        writer.write(Audio(NOISE, RATE))
    assert file.getvalue()[:10] == b"beforeRIFF"
    assert Audio.read(io.BytesIO(file.getvalue()[6:])).duration == 1


def test_a_pipe_says_until_the_end() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as out, WavWriter(out) as writer:
        writer.write(Audio(NOISE[:100], RATE))
        writer.write(Audio(NOISE[:100], RATE))
    with os.fdopen(read_end, "rb") as file:
        data = file.read()
    assert data[:44] == wav_header(RATE, floating=False, data_bytes=None)
    assert struct.unpack("<I", data[40:44])[0] == UNKNOWN_SIZE
    assert len(data) == 44 + 400
    # libsndfile reads such a file to its end, as players do.
    assert len(Audio.read(io.BytesIO(data)).samples) == 200


def test_raw_has_no_header() -> None:
    file = io.BytesIO()
    with WavWriter(file, "raw") as writer:
        writer.write(Audio(NOISE, RATE))
    assert file.getvalue() == Audio(NOISE, RATE).pcm16().tobytes()


def test_a_writer_refuses_another_rate_or_format() -> None:
    with WavWriter(io.BytesIO()) as writer:
        writer.write(Audio(NOISE, RATE))
        with pytest.raises(InvalidRequest, match="got 8000; allowed: 16000 as before"):
            writer.write(Audio(NOISE, 8_000))
    with pytest.raises(AudioError, match="allowed for a growing file: wav, wav-float, raw"):
        WavWriter(io.BytesIO(), "flac")


def test_unsigned_samples_are_centred() -> None:
    silence = Audio.of((np.full(8, 128, np.uint8), 8_000))
    assert not silence.samples.any()
    loud = Audio.of((np.array([0, 255], np.uint8), 8_000)).samples
    np.testing.assert_allclose(loud, [-1.0, 127 / 128])
    wide = Audio.of((np.array([0, 2**15, 2**16 - 1], np.uint16), 8_000)).samples
    np.testing.assert_allclose(wide, [-1.0, 0.0, 1.0], atol=1e-4)


@pytest.mark.parametrize("source", [b"RIFF", bytearray(b"RIFF"), io.BytesIO(b"RIFF")])
def test_a_files_content_is_told_how_to_be_read(source: object) -> None:
    with pytest.raises(InvalidRequest, match=r"Audio\.read\(io\.BytesIO\(content\)\)"):
        Audio.of(source)  # type: ignore[arg-type]


def test_a_format_that_cannot_be_read_says_which_can(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(AudioError, match="allowed: WAV, FLAC, OGG, MP3, AIFF; convert") as error:
        Audio.read(path)
    assert str(error.value).count("a.m4a") == 1
