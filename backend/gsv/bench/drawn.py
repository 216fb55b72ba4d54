"""How many sentences a GPT draws badly, with and without the guard; no sound is made.

    python -m gsv.bench drawn REPOSITORY client/gsv_client/bench/everyday.json

The same counts as ``gsv bench --quality``, in a fraction of its time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from gsv.offline import Offline
from gsv.options import DEFAULTS
from gsv.stages.calls import StageCall
from gsv.stages.messages import Details, SemanticResult, SpeechRequest
from gsv.stages.synthesis import Speech, prepare, run
from gsv_client.bench.quality import LONG

AT_ONCE = 16  # answers whose sentences share the running batch
Drawn = dict[str, Any]  # a sentence as ``DRAWN`` tells of it, with its text


class Speaker:
    """A prepared repository's text and GPT.

    Args:
        offline: its stages.
        language: of the texts.
        sampling: ``voice`` and any of ``top_k``, ``top_p``, ``temperature`` and
            ``repetition_penalty``; upstream's defaults without them.
    """

    def __init__(self, offline: Offline, language: str, sampling: dict[str, Any]) -> None:
        self._models, self._language, self._sampling = offline.models, language, sampling

    def draw(self, text: str, seed: int, guard: bool) -> list[Drawn]:
        """The sentences of a text."""
        names = SpeechRequest.__dataclass_fields__.keys() & vars(DEFAULTS).keys()
        values: dict[str, Any] = {name: getattr(DEFAULTS, name) for name in names} | {
            "text": text, "language": self._language, "reference_text": "",
            "reference_language": "auto", "seed": seed, "guard": int(guard),
            "details": Details.REPORT, **self._sampling,
        }  # fmt: skip
        speech: Speech = run(prepare(SpeechRequest(**values)), self._answer)
        tokens: SemanticResult = self._answer(speech.semantic())
        sentences = json.loads(speech.text.analysis)["sentences"]
        return [
            {"text": sentence["text"], "seed": seed, **drawn}
            for sentence, drawn in zip(sentences, json.loads(tokens.drawn), strict=True)
        ]

    def _answer(self, call: StageCall[Any]) -> Any:
        return self._models(call, self._models.token(""))


def counts(sentences: Sequence[Drawn]) -> dict[str, Any]:
    """What they are in numbers; ``drawn`` includes the tokens of attempts that were given up."""
    return {
        "sentences": len(sentences),
        "bad": sum(bool(one["signals"]) for one in sentences),
        "long": sum(one["tokens"] > LONG * one["expected"] for one in sentences),
        "retried": sum(bool(one["retries"]) for one in sentences),
        "tokens": sum(one["tokens"] for one in sentences),
        "drawn": sum(one["drawn"] for one in sentences),
        "signals": dict(Counter(signal for one in sentences for signal in one["signals"])),
        "causes": dict(Counter(cause for one in sentences for cause in one["retries"])),
    }


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("texts", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--voice", default="demo", show_default=True, help="That speaks.")
@click.option("--language", default="en", show_default=True)
@click.option("--seeds", default=3, show_default=True, help="1 to this one.")
@click.option("--top-k", default=DEFAULTS.top_k, show_default=True)
@click.option("--temperature", default=DEFAULTS.temperature, show_default=True)
def main(
    repository: Path, texts: Path, voice: str, language: str, seeds: int, **sampling: Any
) -> None:
    """Count bad sentences of TEXTS, a JSON list of {"text": ...}, with REPOSITORY's GPT."""
    asked = [entry["text"] for entry in json.loads(texts.read_text("utf-8"))]
    with Offline(repository) as offline, ThreadPoolExecutor(AT_ONCE) as pool:
        speaker = Speaker(offline, language, {"voice": voice, **sampling})
        for guard in (False, True):
            answers = [
                pool.submit(speaker.draw, text, seed, guard)
                for text in asked
                for seed in range(1, seeds + 1)
            ]
            sentences = [sentence for answer in answers for sentence in answer.result()]
            click.echo(json.dumps({"guard": guard, **counts(sentences)}))
            for one in sentences:
                if one["signals"] or one["tokens"] > LONG * one["expected"]:
                    click.echo(f"  {json.dumps(one, ensure_ascii=False)}")
