"""Recordings that come with a request: what browsers make is read, nothing else is followed."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from gsv_client import Audio, AudioError, InvalidRequest
from gsv_client.gateway import recordings
from gsv_client.gateway.mp4 import check_index
from gsv_client.gateway.recordings import AT_ONCE, cut, decode, decoded, from_base64, judge

RATE = 48_000
TONE = (0.2 * np.sin(np.arange(4 * RATE) * 2 * np.pi * 300 / RATE)).astype(np.float32)
BY_LIBAV = {
    "webm": ("webm", "libopus"), "opus": ("ogg", "libopus"), "mp4": ("mp4", "aac"),
    "aac": ("adts", "aac"),
}  # fmt: skip


def by_libav(name: str) -> bytes:
    container, codec = BY_LIBAV[name]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def by_libsndfile(name: str, samples: np.ndarray = TONE, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=name)
    return file.getvalue()


@pytest.mark.parametrize("name", [*BY_LIBAV, "WAV", "FLAC", "OGG", "MP3"])
def test_what_browsers_and_phones_record(name: str) -> None:
    data = by_libav(name) if name in BY_LIBAV else by_libsndfile(name)
    audio = decode(data)
    assert audio.rate == RATE
    assert audio.duration == pytest.approx(4.0, abs=0.1)
    assert np.sqrt(np.mean(audio.samples**2)) == pytest.approx(0.1414, abs=0.01)


def test_channels_are_averaged() -> None:
    stereo = np.stack([TONE, np.zeros_like(TONE)], axis=1)
    audio = decode(by_libsndfile("WAV", stereo))
    assert np.allclose(audio.samples, TONE / 2, atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"RIFF", b"no sound at all", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n", b"\x1aE\xdf\xa3" + bytes(100),
        b"\x00\x00\x00\x18ftypisom" + bytes(50), b"\xff\xf1" + bytes(40), b"OggS" + bytes(60),
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ],
)  # fmt: skip
def test_what_is_no_recording(data: bytes) -> None:
    with pytest.raises(AudioError, match="the recording: (not a readable|holds no audio)"):
        decode(data)


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    """The decoder is never told to look what else it might be, so no file is followed."""
    target = tmp_path / "secret.wav"
    target.write_bytes(by_libsndfile("WAV"))
    playlists = [f"#EXTM3U\n{target}".encode(), f"ffconcat version 1.0\nfile {target}".encode()]
    script = f"""
import sys
from gsv_client.gateway.recordings import decode
opened = []
sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == "open" else None)
for data in {playlists!r}:
    try:
        decode(data)
    except Exception as error:
        print(type(error).__name__)
print([path for path in opened if "secret" in path])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["AudioError", "AudioError", "[]"], done.stderr


def test_too_long_and_strange_rates() -> None:
    for data in (by_libsndfile("WAV"), by_libav("webm")):
        with pytest.raises(AudioError, match="longer than 2 s"):
            decode(data, longest=2.0)
    for data in (by_libsndfile("WAV", TONE[:4_000], 4_000), matroska(frame(4_000))):
        with pytest.raises(AudioError, match="4000 Hz; allowed: from 8000 to 192000 Hz"):
            decode(data)
    many = np.zeros((4_000, 9), np.float32)
    with pytest.raises(AudioError, match="9 channels; allowed: 1 to 8"):
        decode(by_libsndfile("WAV", many))


def silent_flac(rate: int, channels: int, seconds: int) -> bytes:
    """A few kilobytes, whatever it unpacks to."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format="FLAC") as sound:
        for _ in range(seconds):
            sound.write(np.zeros((rate, channels), np.float32))
    return file.getvalue()


def frame(rate: int, layout: str = "mono", samples: int = 1_000) -> av.AudioFrame:
    made = av.AudioFrame(format="s16", layout=layout, samples=samples)
    made.sample_rate = rate
    return made


def matroska(one: av.AudioFrame) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=one.sample_rate, layout=one.layout.name)
        output.mux(stream.encode(one))
    return file.getvalue()


@pytest.mark.parametrize(
    "wrong", [frame(1), frame(7_999), frame(192_001), frame(RATE, "hexadecagonal")]
)
def test_a_frame_that_is_not_what_the_container_says(wrong: av.AudioFrame) -> None:
    """A thousand samples at 1 Hz would become 48 million."""
    with pytest.raises(ValueError, match=f"{wrong.sample_rate} Hz"):
        list(recordings._mono([wrong], RATE))


def test_a_frame_without_measure() -> None:
    data = matroska(frame(192_000, samples=recordings._LONGEST_FRAME + 1))
    with pytest.raises(AudioError, match="not a readable recording"):
        decode(data)
    assert decode(matroska(frame(RATE))).duration == pytest.approx(1_000 / RATE)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("rate", "channels", "seconds", "most_mib", "words"),
    [
        (8_000, 1, 1_200, 24, "longer than 120 s"),
        (655_350, 8, 5, 2, "recorded at 655350 Hz"),
        (192_000, 8, 20, 48, ""),  # 15 MiB of mono, where all its channels are 117
    ],
)
@pytest.mark.usefixtures("traced")
def test_a_small_file_can_not_fill_the_memory(
    rate: int, channels: int, seconds: int, most_mib: int, words: str
) -> None:
    """Silence is a few kilobytes of FLAC a minute; no more than the limit is unpacked."""
    data = silent_flac(rate, channels, seconds)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    if words:
        with pytest.raises(AudioError, match=words):
            decode(data)
    else:
        assert decode(data).duration == seconds
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < most_mib << 20


def test_only_so_many_are_unpacked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(data: bytes, name: str, longest: float) -> Audio:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Audio(TONE, RATE)

    async def ask() -> list[Audio]:
        return await asyncio.gather(*(decoded(b"") for _ in range(8 * AT_ONCE)))

    monkeypatch.setattr(recordings, "decode", work)
    assert len(asyncio.run(ask())) == 8 * AT_ONCE
    assert 1 <= most <= AT_ONCE


def test_a_piece_does_not_hold_the_whole() -> None:
    audio = Audio(TONE, RATE)
    assert not np.shares_memory(cut(audio, 1, 2).samples, audio.samples)


def test_a_header_that_lies() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(16_000))
    data = bytearray(file.getvalue())
    data[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
    assert decode(bytes(data)).duration == pytest.approx(1.0, abs=0.01)


def test_base64_and_data_urls() -> None:
    text = base64.b64encode(b"abc").decode()
    assert from_base64(text, "x") == from_base64(f"data:audio/wav;base64,{text}", "x") == b"abc"
    for wrong in ("äöü", "%%%", "data:audio/wav,abc", "a"):
        with pytest.raises(InvalidRequest, match="reference: got"):
            from_base64(wrong, "reference")


def test_a_piece_of_it() -> None:
    audio = Audio(TONE, RATE)
    assert cut(audio, 1, 2.5).duration == 1.5
    for start, end in ((-1, 2), (2, 2), (3, 9), (float("nan"), 1)):
        with pytest.raises(InvalidRequest, match="reference_window"):
            cut(audio, start, end)


def test_a_recording_is_judged_as_voices_add_does() -> None:
    sample = Path(__file__).parents[2] / "voices" / "sample" / "reference.wav"
    good = judge(decode(sample.read_bytes()))
    assert good["usable"]
    assert good["window"] is None
    long = judge(Audio(np.tile(Audio.read(sample).samples, 4), Audio.read(sample).rate))
    assert not long["usable"]
    start, end = long["window"]
    assert 5 <= end - start <= 9
    silent = judge(Audio(np.zeros(5 * RATE), RATE))
    assert [r["message"] for r in silent["remarks"]] == ["holds nothing but silence"]


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def table(kind: bytes, *numbers: int) -> bytes:
    """A box with version and flags before its numbers."""
    return box(kind, struct.pack(f">{1 + len(numbers)}I", 0, *numbers))


COUNT = 400_000_000


@pytest.mark.parametrize(
    "index",
    [
        table(b"stsz", 1, COUNT),
        table(b"stz2", 8, COUNT),
        table(b"stts", 1, COUNT, 1024),
        table(b"ctts", 2, 5, 0, COUNT, 0),
        box(b"udta", table(b"stsz", 1, COUNT)),
        box(b"moof", box(b"traf", table(b"trun", COUNT))),
        box(b"cmov", b"anything"),
        b"".join(box(b"trak", table(b"stsz", 1, 600_000)) for _ in range(2)),
    ],
    ids=["stsz", "stz2", "stts", "ctts", "elsewhere", "fragment", "compressed", "two tracks"],
)
def test_an_index_that_would_fill_the_memory(index: bytes) -> None:
    """libav makes memory of it before anything can be asked."""
    media = box(b"mdat", b"stsz" + bytes(8) + b"\xff" * 4)  # no table, though it looks like one
    data = box(b"ftyp", b"isom", bytes(4)) + media + box(b"moov", index)
    with pytest.raises(ValueError, match="index"):
        check_index(data)
    with pytest.raises(AudioError, match="not a readable recording"):
        decode(data)


def test_an_index_of_a_recording() -> None:
    check_index(by_libav("mp4"))
    check_index(box(b"ftyp", b"isom") + box(b"mdat", b"stsz" + bytes(8) + b"\xff" * 4))
    large = struct.pack(">I4sQ", 1, b"mdat", 36) + b"stsz" + bytes(8) + b"\xff" * 8
    check_index(box(b"ftyp", b"isom") + large)
    for cut_off in (b"", b"\0", b"\0\0\0\0moov", box(b"moov", b"stts"), b"\0\0\0\1mdat"):
        check_index(cut_off)
