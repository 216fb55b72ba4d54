"""Makes the corpus: Festival speaks the training texts; waves, mels and phone times are stored.

    .venv/bin/python tools/demo_voice/corpus.py [--count 4400]

Needs Debian's ``festival`` and ``festvox-us-slt-hts``. Festival tells when each of its phones ends;
the product's frontend has phones of its own, so each word's two readings are aligned.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import places
import sentences
import soundfile
import torch
from numpy.typing import NDArray

from gsv import audio
from gsv.constants import MEL_HOP, REFERENCE_RATE
from gsv.text.frontend import TextFrontend

TEACHER = Path(
    "/usr/share/festival/voices/us/cmu_us_slt_arctic_hts/hts/cmu_us_slt_arctic_hts.htsvoice"
)
# The teacher speaks on one note, two periods a mel frame: its harmonics then stand still in the mel
# and in the vocoder's frames, and a few minutes on a CPU are enough to learn them. The price is a
# monotonous voice; with more time, leave the pitch alone.
PITCH = 200.0
# Slower than by itself, so that few phones are shorter than a token's 40 ms.
SPEAKING_RATE = 0.87
LEAD_SECONDS, TAIL_SECONDS = 0.10, 0.18  # silence that is left around a sentence
LEVEL = 0.08  # root mean square that sentences are scaled to
_TIME_UNIT = 10_000  # phone times are stored as whole numbers of 0.1 ms
_HTS_STATES = 5
_HTS_FLOATS = 7  # of a pitch leaf: three means, three variances, the share of voiced frames


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One sentence as it was spoken."""

    text: str
    wave: NDArray[np.int16]  # 32 kHz
    phonemes: NDArray[np.int64]  # the frontend's
    ends: NDArray[np.int64]  # of each phoneme, in 0.1 ms


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


def speak(texts: list[str], teacher: Path) -> list[tuple[NDArray[np.float32], list[str]]]:
    """Let one Festival process speak all texts; waves, and lines ``phone end word-number``."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        script = folder / "speak.scm"
        lines = [
            "(voice_cmu_us_slt_arctic_hts)",
            f'(set! hts_engine_params (list (list "-m" "{teacher}")'
            f' (list "-g" 0.0) (list "-b" 0.0) (list "-u" 0.5) (list "-r" {SPEAKING_RATE})))',
            # No break inside a sentence: the texts have no comma, so nothing would ask for it.
            '(set! phrase_cart_tree \'((lisp_token_end_punc in (".")) ((BB)) ((NB))))',
            '(define (tell s) (format out "%s %s %s\\n" (item.name s) (item.feat s \'end)'
            " (item.feat s 'R:SylStructure.parent.parent.id)))",
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
        script.write_text("\n".join(lines))
        subprocess.run(["festival", "-b", str(script)], check=True)
        return [
            (
                soundfile.read(folder / f"{i}.wav", dtype="float32")[0],
                (folder / f"{i}.txt").read_text().splitlines(),
            )
            for i in range(len(texts))
        ]


def align(theirs: list[str], ours: list[str], ends: list[float], start: float) -> list[float]:
    """Ends of ``ours``, given the ends of ``theirs``, both phones of the same word.

    The cheapest path of matches; a phone that only one side has shares its neighbour's time.
    """
    begins = [start, *ends[:-1]]
    if len(theirs) == len(ours):
        return list(ends)
    rows, columns = len(theirs) + 1, len(ours) + 1
    cost = np.full((rows, columns), np.inf)
    cost[0, 0] = 0.0
    step: dict[tuple[int, int], tuple[int, int]] = {}
    for i, j in itertools.product(range(rows), range(columns)):
        for di, dj in ((1, 1), (1, 0), (0, 1)):
            if i < di or j < dj:
                continue
            unequal = not (di and dj) or theirs[i - 1][:1].upper() != ours[j - 1][:1]
            price = cost[i - di, j - dj] + (1.0 if unequal else 0.0)
            if price < cost[i, j]:
                cost[i, j], step[i, j] = price, (i - di, j - dj)
    spans = [[np.inf, -np.inf] for _ in ours]
    i, j = rows - 1, columns - 1
    while (i, j) != (0, 0):
        before = step[i, j]
        span = spans[max(j - 1, 0)]
        at = max(i - 1, 0)
        span[0], span[1] = min(span[0], begins[at]), max(span[1], ends[at])
        i, j = before
    # Phones that fell on the same teacher's phone share it evenly.
    made: list[float] = []
    for (low, high), group in itertools.groupby(spans, key=tuple):
        count = len(list(group))
        made += [low + (high - low) * (k + 1) / count for k in range(count)]
    return list(np.maximum.accumulate(made))


def utterance(
    frontend: TextFrontend, text: str, wave: NDArray[np.float32], lines: list[str]
) -> Utterance | None:
    """Trimmed and aligned; None where the two sides don't see the same words."""
    parts = [line.split() for line in lines]
    phones = [(name, float(end), word) for name, end, word in parts]
    spoken = [(name, end, word) for name, end, word in phones if word != "0"]
    words = text.strip(".").split()
    groups = [list(group) for _, group in itertools.groupby(spoken, key=lambda phone: phone[2])]
    analysed = frontend.analyze(text, "en")
    read = [_word_symbols(frontend, word) for word in words]
    symbols = [symbol for word in read for symbol in word]
    if len(analysed) != 1 or len(groups) != len(words) or any(n == "pau" for n, _, _ in spoken):
        return None
    if list(analysed[0].symbols) != [*symbols, "."]:
        return None
    lead = next(end for name, end, _ in phones if name == "pau")
    ends: list[float] = []
    position = lead
    for word, group in zip(read, groups, strict=True):
        ends += align([n for n, _, _ in group], word, [e for _, e, _ in group], position)
        position = ends[-1]
    first = max(0.0, lead - LEAD_SECONDS)
    last = min(len(wave) / REFERENCE_RATE, position + TAIL_SECONDS)
    wave = wave[round(first * REFERENCE_RATE) : round(last * REFERENCE_RATE)]
    wave = wave * (LEVEL / np.sqrt(np.mean(wave**2)))
    times = np.array([*ends, last]) - first
    return Utterance(
        text,
        audio.to_pcm16(wave.astype(np.float32)),
        np.array(analysed[0].ids, np.int64),
        np.round(times * _TIME_UNIT).astype(np.int64),
    )


@functools.cache
def _words() -> dict[str, list[str]]:
    return {}


def _word_symbols(frontend: TextFrontend, word: str) -> list[str]:
    known = _words()
    if word not in known:
        carrier = frontend.analyze("Yes it is.", "en")[0].symbols[:-1]
        found = frontend.analyze(f"Yes it is {word} yes it is.", "en")[0].symbols[:-1]
        known[word] = list(found[len(carrier) : -len(carrier)])
    return known[word]


def _part(texts: list[str], teacher: Path) -> list[Utterance]:
    torch.set_num_threads(1)
    frontend = TextFrontend()
    made = []
    for first in range(0, len(texts), 200):
        some = texts[first : first + 200]
        for text, (wave, lines) in zip(some, speak(some, teacher), strict=True):
            if (made_one := utterance(frontend, text, wave, lines)) is not None:
                made.append(made_one)
    return made


def store(path: Path, utterances: list[Utterance]) -> None:
    """All utterances in one file of flat arrays with their borders, mels included."""
    waves = [u.wave for u in utterances]
    mels = []
    for wave in waves:
        floats = torch.from_numpy(wave.astype(np.float32) / 32768.0)
        mel = audio.normalize_mel(audio.log_mel(floats[: len(floats) // MEL_HOP * MEL_HOP]))
        mels.append(mel.T.half().numpy())
    np.savez(
        path,
        texts=np.array([u.text for u in utterances]),
        waves=np.concatenate(waves),
        wave_borders=_borders(waves),
        mels=np.concatenate(mels),
        mel_borders=_borders(mels),
        phonemes=np.concatenate([u.phonemes for u in utterances]),
        ends=np.concatenate([u.ends for u in utterances]),
        phoneme_borders=_borders([u.phonemes for u in utterances]),
    )


def _borders(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)])


@click.command()
@click.option(
    "--count", default=4_400, show_default=True, help="Training sentences; 0: only the judged ones."
)
@click.option("--processes", default=2, show_default=True)
def main(count: int, processes: int) -> None:
    """Speak the training texts and, for the judge, the judged ones."""
    log = places.logger("corpus")
    teacher = places.RUN / "teacher.htsvoice"
    teacher.write_bytes(on_one_note(TEACHER.read_bytes(), PITCH))
    judged = _part([*sentences.JUDGED, *sentences.SPOKEN_BY_DEMO, sentences.REFERENCE], teacher)
    store(places.RUN / "judged.npz", judged)
    log.info("%d of the judged, demo and reference sentences", len(judged))
    if not count:
        return
    texts = sentences.Grammar(seed=1).training(count)
    with ProcessPoolExecutor(processes) as pool:
        shares = [texts[i::processes] for i in range(processes)]
        parts = pool.map(_part, shares, [teacher] * processes)
        utterances = [u for part in parts for u in part]
    store(places.RUN / "corpus.npz", utterances)
    seconds = sum(len(u.wave) for u in utterances) / REFERENCE_RATE
    log.info("%d sentences, %.2f hours", len(utterances), seconds / 3600)


if __name__ == "__main__":
    main()
