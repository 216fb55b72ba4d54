"""Each format: one file for one answer, nothing added at the seams of its chunks."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from gsv_client import Audio, InvalidRequest, ServerError
from gsv_client.gateway.encoders import (
    FORMATS,
    encoded,
    format_named,
    mulaw,
    open_encoder,
    rate_for,
)

LOSSLESS = ("wav", "pcm", "flac")
CODED_IN_FRAMES = ("mp3", "aac")
EVERY_RATE = [(name, rate) for name, form in sorted(FORMATS.items()) for rate in form.rates]


def frame(name: str, rate: int) -> int:
    """Samples of a codec's frame: what a decoder may give beyond those that went in."""
    if name == "mp3":
        return 1_152 if rate >= 32_000 else 576
    return 1_024 if name == "aac" else 0


def speech(seconds: float, rate: int) -> NDArray[np.float32]:
    """Something without a pause in it: a glide with a beat."""
    time = np.arange(round(seconds * rate)) / rate
    glide = np.sin(2 * np.pi * (200 + 100 * time) * time) * (0.3 + 0.1 * np.sin(9 * time))
    return glide.astype(np.float32)


def streamed(
    name: str, wave: NDArray[np.float32], rate: int, seconds: float = 0.37, silence: float = 0.0
) -> list[bytes]:
    encoder = open_encoder(FORMATS[name], rate, silence=silence)
    step = round(seconds * rate)
    parts = [encoder.encode(wave[i : i + step]) for i in range(0, len(wave), step)]
    return [*parts, encoder.finish()]


def decoded(name: str, data: bytes, rate: int) -> tuple[NDArray[np.float32], int]:
    """By another library than the one that made it, where there is one."""
    if name == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_768, rate
    # (libsndfile takes a FLAC of unknown length for an endless one.)
    if name in ("wav", "vorbis", "mulaw") and data[4:8] != b"\xff\xff\xff\xff":
        samples, found = soundfile.read(io.BytesIO(data), dtype="float32")
        return samples, found
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.audio[0]
        parts = [frame.to_ndarray() for frame in file.decode(stream)]
        joined = np.concatenate(parts, axis=1)[0]
        scale = 32_768 if joined.dtype == np.int16 else 1
        return joined.astype(np.float32) / scale, int(stream.rate)


def aligned(wave: NDArray[np.float32], heard: NDArray[np.float32]) -> NDArray[np.float32]:
    """What was heard, moved to where it fits best."""
    first = np.correlate(heard[:8_000], wave[:4_000], "valid")
    shift = int(np.argmax(first))
    return heard[shift : shift + len(wave)]


@pytest.mark.parametrize(("name", "rate"), EVERY_RATE)
def test_a_stream_decodes_to_what_went_in(name: str, rate: int) -> None:
    wave = speech(2.5, rate)
    parts = streamed(name, wave, rate)
    heard, heard_rate = decoded(name, b"".join(parts), rate)
    if name == "opus":  # which always decodes at 48 kHz
        assert heard_rate == 48_000
        assert len(heard) == len(wave) * 48_000 // rate
        heard = heard[:: 48_000 // rate]
    else:
        assert heard_rate == rate
        assert 0 <= len(heard) - len(wave) <= frame(name, rate)
    if name in LOSSLESS:
        assert np.abs(heard - wave).max() <= 1 / 32_768
    elif name != "mulaw":
        heard = aligned(wave, heard)
    # No seam is heard: the level of every 20 ms is that of the source.
    size = rate // 50
    count = min(len(heard), len(wave)) // size
    level = [np.sqrt((x[: count * size].reshape(count, size) ** 2).mean(1)) for x in (heard, wave)]
    first = 2 + frame(name, rate) // size  # with sound up to the end the first window fades in
    assert (level[0][first:-3] > 0.6 * level[1][first:-3]).all()


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("name", "rate"), EVERY_RATE)
def test_the_length_is_right_to_a_frame_of_the_codec(name: str, rate: int, pause: float) -> None:
    """Streamed and whole, at every rate, wherever in a frame the audio ends."""
    pad = np.zeros(round(pause * rate), np.float32)
    for extra in range(0, 1_152, 230 if name in CODED_IN_FRAMES else 600):
        wave = np.concatenate([speech(0.4 + extra / rate, rate), pad])
        files = {
            "streamed": b"".join(streamed(name, wave, rate, silence=pause)),
            "whole": encoded(Audio(wave, rate), FORMATS[name]),
        }
        for kind, data in files.items():
            heard, heard_rate = decoded(name, data, rate)
            surplus = len(heard) * rate / heard_rate - len(wave)
            assert 0 <= surplus <= frame(name, rate), (kind, extra)


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
@pytest.mark.parametrize("name", CODED_IN_FRAMES)
def test_where_silence_follows_the_sound_is_whole(name: str, rate: int) -> None:
    """From its first sample to its last: neither fades it in nor is its end cut off."""
    sound = speech(1.0 + 700 / rate, rate) + np.float32(0.1)  # which begins and ends at once
    sound[-1] = 0.5
    wave = np.concatenate([sound, np.zeros(round(0.3 * rate), np.float32)])
    delay = 1_105 if name == "mp3" else 1_024
    levels = []
    for silence in (0.3, 0.0):
        heard, _ = decoded(name, b"".join(streamed(name, wave, rate, silence=silence)), rate)
        begin = delay if silence else 0
        levels.append(np.sqrt(np.mean(heard[begin : begin + 200] ** 2)))
        if silence:
            assert len(heard) >= delay + len(sound)
            end = heard[delay + len(sound) - 200 : delay + len(sound)]
            assert np.sqrt(np.mean((end - sound[-200:]) ** 2)) < 0.1
    source = np.sqrt(np.mean(sound[:200] ** 2))
    assert levels[0] > 0.8 * source
    assert levels[0] > levels[1]  # without silence at the end the delay can't be kept


def test_a_promise_of_silence_that_is_not_kept_costs_no_sound() -> None:
    wave = speech(1.0, 8_000)
    heard, _ = decoded("aac", b"".join(streamed("aac", wave, 8_000, silence=0.3)), 8_000)
    assert len(heard) >= 1_024 + len(wave)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_audio_leaves_with_the_first_chunk(name: str) -> None:
    """Not the header alone: about as much as that chunk is worth."""
    parts = streamed(name, speech(3, 48_000), 48_000, seconds=0.5)
    whole = sum(map(len, parts))
    assert len(parts[0]) > whole / 6 / 3
    if name != "vorbis":  # its pages are of 4 KiB, and this wave is an easy one
        assert all(len(part) > whole / 6 / 3 for part in parts[:-1])


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_whole_answer_has_exact_headers(name: str) -> None:
    wave = speech(1.3, 24_000)
    data = encoded(Audio(wave, 24_000), FORMATS[name])
    if name in ("wav", "mulaw"):
        assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
        place = data.index(b"data")
        assert struct.unpack_from("<I", data, place + 4)[0] == len(data) - place - 8
    if name == "mp3":
        assert b"Info" in data[:200] or b"Xing" in data[:200]
        heard, _ = decoded(name, data, 24_000)
        assert abs(len(heard) - len(wave)) <= 576
    if name in ("wav", "flac", "mulaw", "vorbis"):
        assert soundfile.info(io.BytesIO(data)).frames == len(wave)


def test_a_streams_wav_says_until_the_end() -> None:
    data = b"".join(streamed("wav", speech(1, 8_000), 8_000))
    sizes = [struct.unpack_from("<I", data, place)[0] for place in (4, 40)]
    assert sizes == [2**32 - 1, 2**32 - 1]
    assert len(data) == 44 + 2 * 8_000  # and no byte after it: players make a click of those


def test_a_streams_mp3_has_no_length_in_it() -> None:
    data = b"".join(streamed("mp3", speech(1, 48_000), 48_000))
    assert data[0] == 0xFF
    assert b"Xing" not in data
    assert b"Info" not in data


def test_mulaw_is_that_of_the_standard() -> None:
    wave = np.concatenate([np.linspace(-1, 1, 40_001), [-0.0, 1.0, -1.0, 2.0]]).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave, -1, 1), 8_000, format="RAW", subtype="ULAW")
    theirs = np.frombuffer(file.getvalue(), np.uint8)
    levels = _levels()
    # Where a sample lies between two steps the two may round differently; never by more than one.
    ours = levels[mulaw(wave)]
    step = np.maximum(np.abs(ours) / 16, 8 / 32_768)
    assert (np.abs(ours - np.clip(wave, -1, 1)) <= step).all()
    assert np.mean(mulaw(wave) == theirs) > 0.9


def _levels() -> NDArray[np.float32]:
    file = io.BytesIO(bytes(range(256)))
    samples, _ = soundfile.read(
        file, dtype="float32", format="RAW", subtype="ULAW", channels=1, samplerate=8_000
    )
    return samples


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_answer_without_a_sample_is_still_a_file(name: str) -> None:
    encoder = open_encoder(FORMATS[name], 48_000)
    data = encoder.encode(np.zeros(0, np.float32)) + encoder.finish()
    assert name == "pcm" or len(data) > 30


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_no_number_is_refused(name: str) -> None:
    encoder = open_encoder(FORMATS[name], 48_000)
    with pytest.raises(ServerError, match="not numbers"):
        encoder.encode(np.array([0.0, np.nan], np.float32))


def test_formats_and_rates_that_are_not() -> None:
    with pytest.raises(InvalidRequest, match="response_format: got 'midi'; allowed: mp3, opus"):
        format_named("midi")
    with pytest.raises(InvalidRequest, match="44100.*8000, 16000, 24000, 48000 with opus"):
        rate_for(FORMATS["opus"], 44_100)
    assert rate_for(FORMATS["pcm"], None) == 24_000
    assert rate_for(FORMATS["mp3"], 22_050) == 22_050
