"""The synthesizers that the demo voice learns from: waves, and when each of their phones ends.

``slt`` is Festival's female voice at 32 kHz, ``rms`` flite's male one at 16 kHz. ``note`` is
``slt`` on one note, which the first version of the demo voice learned from. A folder named by
``$DEMO_VOICE_ENGINES`` has programs and voices that are used instead of the installed ones
(``bundle.py`` fills it).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import wave as wave_file
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from gsv.constants import REFERENCE_RATE

# Slower than by themselves, so that few phones are shorter than a token's 40 ms.
SPEAKING_RATE = 0.87
NOTE = 200.0  # Hz; two periods a mel frame, so that harmonics stand still in the mel
_SLT = "cmu_us_slt_arctic_hts"
_HTS_STATES = 5
_HTS_FLOATS = 7  # of a pitch leaf: three means, three variances, the share of voiced frames
_BATCH = 100  # texts a Festival process speaks
PAUSE = "pau"


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One text as a teacher spoke it."""

    wave: NDArray[np.float32]  # 32 kHz
    phones: tuple[str, ...]  # Festival's names; pauses included
    ends: tuple[float, ...]  # of each, in seconds


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Speaks texts; the same text always gives the same wave."""

    name: str
    speak: Callable[[Sequence[str]], list[Spoken]]


def on_one_note(voice: bytes, pitch: float) -> bytes:
    """The HTS voice with the mean of every leaf of its pitch model at ``pitch`` Hz, unmoving."""
    start = voice.index(b"[DATA]\n") + len(b"[DATA]\n")
    header = voice[:start].decode("latin-1")
    content = bytearray(voice)
    first, last = header.split("STREAM_PDF[LF0]:")[1].split()[0].split("-")
    leaves = slice(start + int(first) + _HTS_STATES * 4, start + int(last) + 1)
    values = np.frombuffer(content[leaves], "<f4").reshape(-1, _HTS_FLOATS).copy()
    values[:, 0] = np.log(pitch)
    values[:, 1:3] = 0.0
    content[leaves] = values.tobytes()
    # The engine would else restore the variance that natural pitch has.
    switch = content.index(b"USE_GV[LF0]:1")
    content[switch : switch + 13] = b"USE_GV[LF0]:0"
    return bytes(content)


def _engine(program: str) -> list[str]:
    """The command that starts an installed program, or the one that ``bundle.py`` packed."""
    folder = os.environ.get("DEMO_VOICE_ENGINES")
    if not folder:
        return [program]
    root = Path(folder).resolve()
    command = [str(root / "lib" / "ld-linux-x86-64.so.2"), "--library-path", str(root / "lib")]
    command.append(str(root / "bin" / program))
    return [*command, "--datadir", str(root / "festival")] if program == "festival" else command


def _festival_voice() -> Path:
    root = os.environ.get("DEMO_VOICE_ENGINES")
    base = Path(root).resolve() / "festival" if root else Path("/usr/share/festival")
    return base / "voices" / "us" / _SLT / "hts" / f"{_SLT}.htsvoice"


def _read(path: Path) -> NDArray[np.float32]:
    """A mono wave file of 16 bits at any rate, as 32 kHz."""
    with wave_file.open(str(path), "rb") as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    floats = samples.astype(np.float32) / 32768
    made: NDArray[np.float32] = soxr.resample(floats, rate, REFERENCE_RATE)
    return made


def _festival(texts: Sequence[str], pitch: float | None) -> list[Spoken]:
    spoken: list[Spoken] = []
    for first in range(0, len(texts), _BATCH):
        spoken += _one_festival(texts[first : first + _BATCH], pitch)
    return spoken


def _one_festival(texts: Sequence[str], pitch: float | None) -> list[Spoken]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        voice = _festival_voice()
        if pitch is not None:
            changed = on_one_note(voice.read_bytes(), pitch)
            voice = folder / "note.htsvoice"
            voice.write_bytes(changed)
        lines = [
            f"(voice_{_SLT})",
            f'(set! hts_engine_params (list (list "-m" "{voice}")'
            f' (list "-g" 0.0) (list "-b" 0.0) (list "-u" 0.5) (list "-r" {SPEAKING_RATE})))',
            # Pauses at marks alone: the GPT sees marks, but not what else a teacher pauses for.
            "(Param.set 'Phrase_Method 'cart_tree)",
            '(set! phrase_cart_tree \'((lisp_token_end_punc in ("." "," "?" "!" ";" ":"))'
            " ((BB)) ((NB))))",
            '(define (tell s) (format out "%s %s\\n" (item.name s) (item.feat s \'end)))',
        ]
        for index, text in enumerate(texts):
            stem = folder / str(index)
            lines += [
                f'(set! utt (SynthText "{text}"))',
                f'(utt.save.wave utt "{stem}.wav")',
                f'(set! out (fopen "{stem}.txt" "w"))',
                "(mapcar tell (utt.relation.items utt 'Segment))",
                "(fclose out)",
            ]
        script = folder / "speak.scm"
        script.write_text("\n".join(lines), encoding="ascii")
        subprocess.run([*_engine("festival"), "-b", str(script)], check=True)
        return [
            _spoken(
                _read(folder / f"{i}.wav"),
                [line.split() for line in (folder / f"{i}.txt").read_text().splitlines()],
            )
            for i in range(len(texts))
        ]


def _flite(texts: Sequence[str]) -> list[Spoken]:
    made = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = Path(name) / "spoken.wav"
        options = ["-voice", "rms", "--setf", f"duration_stretch={1 / SPEAKING_RATE:.3f}"]
        for text in texts:
            command = [*_engine("flite"), *options, "-psdur", "-t", text, "-o", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            made.append(_spoken(_read(path), [part.split(":") for part in done.stdout.split()]))
    return made


def _spoken(wave: NDArray[np.float32], lines: list[list[str]]) -> Spoken:
    return Spoken(wave, tuple(name for name, _ in lines), tuple(float(end) for _, end in lines))


TEACHERS = {
    "slt": Teacher("slt", lambda texts: _festival(texts, None)),
    "rms": Teacher("rms", _flite),
    "note": Teacher("note", lambda texts: _festival(texts, NOTE)),
}
