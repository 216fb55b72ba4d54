"""Word accuracy of each stage by itself, from the states of training.

    .venv/bin/python tools/demo_voice/check.py [teacher] [vocoder] [flow] [gpt]

``vocoder`` gets the teacher's mels, ``flow`` the teacher's tokens, ``gpt`` the texts.
"""

from __future__ import annotations

import click
import gpt as gpt_step
import numpy as np
import places
import soundfile
import sovits as sovits_step
import torch
import vocoder as vocoder_step
from codes import Tokenized, read
from data import Array
from loop import mean_weights
from recognition import Heard, Recogniser, accuracy
from torch import Tensor

from gsv import audio
from gsv.constants import EOS, EOS_FREE_STEPS, OUTPUT_RATE, REFERENCE_RATE, STYLE_BINS
from gsv.models.gpt import SemanticGPT

_SENTENCES = 20
_LONGEST = 600  # tokens
_KEPT = 3  # waves of each stage that are kept


class Chain:
    """The stages as training sees them, for one teacher."""

    def __init__(self, teacher: int) -> None:
        self.judged, said = read("judged"), Tokenized.load("judged")
        self.rows = np.flatnonzero(said.teachers == teacher).tolist()
        self.spoken = {row: gpt_step.spoken(said, row) for row in self.rows}
        self._said = said

    def wave(self, mel: Tensor) -> Array:
        """Normalised mel [100, T] to 48 kHz."""
        vocoder = mean_weights("vocoder", vocoder_step.build())
        made: Array = vocoder(audio.denormalize_mel(mel)[None])[0, 0].numpy()
        return made

    def mel(self, tokens: Array, phonemes: Array, steps: int, linear: bool = False) -> Tensor:
        """Tokens [N] to a normalised mel [100, 4 N]."""
        learner = mean_weights("sovits", sovits_step.Learner())
        model, row = learner.sovits, self.rows[-1]
        wave = torch.from_numpy(np.asarray(self.judged.waves[row]).astype(np.float32) / 32768)
        timbre = model.style(audio.spectrum(wave[None])[:, :STYLE_BINS])
        condition, _ = model.condition(
            torch.from_numpy(tokens)[None], None, torch.from_numpy(phonemes)[None], None, timbre
        )
        if linear:
            made: Tensor = learner.linear_mel(condition)[0]
            return made
        before, _ = model.condition(
            torch.from_numpy(self._said.tokens[row])[None], None,
            torch.from_numpy(self._said.phonemes[row])[None], None, timbre,
        )  # fmt: skip
        prompt = torch.from_numpy(np.asarray(self.judged.mels[row]).astype(np.float32)).mT[None]
        frames = prompt.shape[-1]
        condition = torch.cat([before[..., :frames], condition], dim=-1)
        inputs = model.flow.embed(condition, prompt)
        torch.manual_seed(0)
        noisy = torch.randn(1, condition.shape[-1], prompt.shape[1])
        noisy[:, :frames] = 0
        for now in model.flow.schedule(steps):
            velocity = model.flow.estimator(noisy, inputs, now[None])
            velocity[:, :frames] = 0
            noisy = noisy + velocity / steps
        return noisy[0, frames:].mT

    def tokens(self, index: int, gpt: SemanticGPT) -> Array:
        """Greedy tokens of a judged sentence, behind the reference."""
        reference = self.spoken[self.rows[-1]]
        row = gpt_step.joined(reference, self.spoken[index], judged=False)
        start = len(row.tokens) - len(self.spoken[index].tokens)
        made = row.tokens[:start]
        row = gpt_step.Row(row.phonemes, made, row.places[:start], row.judged[:start])
        text = len(row.phonemes)
        heads = gpt.config.heads
        shape = (1, text + start + _LONGEST, heads, gpt.config.hidden_dim // heads)
        cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in gpt.layers]
        bert = torch.zeros(text, gpt.config.bert_dim)
        x = gpt.embed_prompt(torch.from_numpy(row.phonemes), bert, torch.from_numpy(made))
        size = torch.tensor([text])
        logits = gpt.prefill(x[None], size, torch.tensor([text + start]), cache)
        found: list[int] = []
        while len(found) < _LONGEST - 1:
            if len(found) < EOS_FREE_STEPS:
                logits[:, EOS] = -torch.inf
            token = int(logits.argmax())
            if token == EOS:
                break
            found.append(token)
            at = torch.tensor([text + start + len(found) - 1])
            logits = gpt.decode(torch.tensor([token]), at, size, cache)
        return np.array(found)


@click.command()
@click.argument("stages", nargs=-1)
@click.option("--steps", default=sovits_step.STEPS, show_default=True, help="Of the flow.")
@click.option("--count", default=_SENTENCES, show_default=True, help="Of sentences.")
@click.option("--teacher", default=0, show_default=True, help="Number of the teacher.")
@torch.inference_mode()
def main(stages: tuple[str, ...], steps: int, count: int, teacher: int) -> None:
    """Judge the stages named."""
    chain, recogniser = Chain(teacher), Recogniser()
    gpt = gpt_step.trained() if "gpt" in stages else None
    log = places.logger("check")
    for stage in stages:
        heard: list[Heard] = []
        for index in chain.rows[:count]:
            wave, rate = _wave(chain, stage, index, steps, gpt)
            heard.append(recogniser.judge(chain.judged.texts[index], wave, rate))
            log.info("%s", heard[-1])
            if len(heard) <= _KEPT:
                soundfile.write(places.RUN / f"{stage}_{len(heard)}.wav", wave, rate)
        log.info("%s: word accuracy %.1f %%", stage, 100 * accuracy(heard))


def _wave(
    chain: Chain, stage: str, index: int, steps: int, gpt: SemanticGPT | None
) -> tuple[Array, int]:
    judged = chain.judged
    if stage == "teacher":
        return judged.waves[index].astype(np.float32) / 32768, REFERENCE_RATE
    if stage == "vocoder":
        mel = torch.from_numpy(judged.mels[index].astype(np.float32)).mT
        return chain.wave(mel), OUTPUT_RATE
    tokens = (
        chain.spoken[index].tokens if gpt is None or stage != "gpt" else chain.tokens(index, gpt)
    )
    mel = chain.mel(tokens, chain.spoken[index].phonemes, steps, linear=stage == "linear")
    return chain.wave(mel), OUTPUT_RATE


if __name__ == "__main__":
    main()
