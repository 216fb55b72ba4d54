"""Trains the GPT: phonemes to tokens, its attention guided by the times of the phones.

.venv/bin/python tools/demo_voice/gpt.py [--minutes 22]
"""

from __future__ import annotations

import dataclasses

import click
import numpy as np
import places
import torch
from codes import CLASSES, Codebook, classes, token_phones
from data import Array, Corpus, Rows
from loop import Trainer, attend
from torch import Tensor, nn
from torch.nn import functional

from gsv.config import GPTConfig
from gsv.constants import EOS
from gsv.models.gpt import Block, SemanticGPT

CONFIG = GPTConfig(hidden_dim=192, heads=6, layers=4)
_BATCH = 16
_GUIDED_LAYERS = (1, 2)  # their heads 0 and 1 are to look at the present and the next phone
_CORRUPTED = 0.06  # share of input tokens that are replaced, so that the GPT forgives its mistakes
_PROMPTED = (0.3, 0.8)  # share of batches with a prompt, at the beginning and at the end
_OWN_PROMPT = 0.6  # share of those whose prompt is the voice's own reference
_OFFSET = 120  # batches without a prompt count from up to here, for a prompt comes before


@dataclasses.dataclass(frozen=True)
class Spoken:
    """An utterance as the GPT sees it."""

    phonemes: Array
    tokens: Array  # those of the sentence; a prompt has its tail's as well
    tail: Array
    places: Array  # of each token, the phoneme that is spoken


@dataclasses.dataclass(frozen=True)
class Row:
    """What one row of a batch holds."""

    phonemes: Array
    tokens: Array
    places: Array
    judged: Array  # tokens whose prediction counts
    text_offset: int = 0
    audio_offset: int = 0


class Source:
    """Draws rows from the corpus."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.judged = read("judged")
        self._rows = read("corpus")
        self.reference = self.judged[-1]

    def batch(self, prompted: float) -> list[Row]:
        """Rows with prompts, with this probability, or all without."""
        chosen = [self._rows[i] for i in self._random.integers(len(self._rows) - 100, size=_BATCH)]
        if self._random.random() >= prompted:
            offset = int(self._random.integers(_OFFSET))
            return [
                Row(one.phonemes, one.tokens, one.places, np.ones(len(one.tokens), bool),
                    offset * 2 // 5, offset)
                for one in chosen
            ]  # fmt: skip
        if self._random.random() < _OWN_PROMPT:
            return [joined(self.reference, one, judged=False) for one in chosen]
        others = self._random.integers(len(self._rows) - 100, size=_BATCH)
        return [
            joined(self._rows[i], one, judged=True) for i, one in zip(others, chosen, strict=True)
        ]

    def held_out(self) -> list[Row]:
        """The judged sentences behind the voice's own reference."""
        return [joined(self.reference, one, judged=False) for one in self.judged[:20]]

    def corrupt(self, tokens: Tensor) -> Tensor:
        """Some tokens replaced by others of the same row, mostly near ones."""
        other = tokens.roll(
            int(self._random.integers(1, 4)) * (-1) ** int(self._random.integers(2)), 1
        )
        hit = torch.from_numpy(self._random.random(tokens.shape) < _CORRUPTED)
        return torch.where(hit & (tokens != EOS), other, tokens)


def read(name: str) -> list[Spoken]:
    """All utterances of one part of the corpus."""
    corpus = Corpus(places.RUN / f"{name}.npz")
    stored = np.load(places.RUN / f"{name}_tokens.npz")
    rows = Rows(stored["tokens"], stored["borders"])
    found = []
    for index in range(len(corpus)):
        size = len(corpus.mels[index]) // 4
        phonemes, ends = corpus.phonemes[index], corpus.ends[index]
        tokens = rows[index].astype(np.int64)
        where = token_phones(phonemes, ends, size)
        found.append(Spoken(phonemes, tokens[:size], tokens[size:], where))
    return found


def joined(prompt: Spoken, target: Spoken, *, judged: bool) -> Row:
    """A sentence behind a prompt, as the product lays them out."""
    prompt_tokens = np.concatenate([prompt.tokens, prompt.tail])
    end = np.full(len(prompt.tail), len(prompt.phonemes) - 1)
    return Row(
        np.concatenate([prompt.phonemes, target.phonemes]),
        np.concatenate([prompt_tokens, target.tokens]),
        np.concatenate([prompt.places, end, len(prompt.phonemes) + target.places]),
        np.concatenate([np.full(len(prompt_tokens), judged), np.ones(len(target.tokens), bool)]),
    )


def padded(rows: list[Array], value: int) -> Tensor:
    """[B, longest]"""
    size = max(map(len, rows))
    filled = [np.pad(row, (0, size - len(row)), constant_values=value) for row in rows]
    return torch.from_numpy(np.stack(filled))


def forward(gpt: SemanticGPT, rows: list[Row], tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, audio, V] of the token after each one, and the guided heads' scores.

    The same sums as the product's ``prefill``, whose rows have their text's padding elsewhere.
    """
    phonemes = padded([row.phonemes for row in rows], -1)
    known = phonemes >= 0
    table = gpt.position_table
    at = torch.tensor([row.text_offset for row in rows])[:, None] + torch.arange(phonemes.shape[1])
    text = gpt.text_embedding(phonemes.clamp(min=0)) + gpt.bert_projection.bias
    text = text + gpt.text_alpha * table[at]
    at = torch.tensor([row.audio_offset for row in rows])[:, None] + torch.arange(tokens.shape[1])
    sound = gpt.audio_embedding(tokens) + gpt.audio_alpha * table[at]
    x = torch.cat([text, sound], dim=1)
    size, words = x.shape[1], phonemes.shape[1]
    visible = torch.zeros(len(rows), size, size, dtype=torch.bool)
    visible[:, :, :words] = known[:, None]
    visible[:, words:, words:] = torch.ones(size - words, size - words).tril().bool()
    mask = torch.zeros(len(rows), 1, size, size).masked_fill(~visible[:, None], -torch.inf)
    guided = []
    for index, layer in enumerate(gpt.layers):
        assert isinstance(layer, Block)
        heads = layer.attention
        q, k, v = heads.qkv(x).unflatten(-1, (3, heads.heads, -1)).transpose(1, 3).unbind(2)
        if index in _GUIDED_LAYERS:
            scores = q[:, :2, words:] @ k[:, :2].mT / q.shape[-1] ** 0.5
            guided.append(scores.float() + mask[:, :, words:])
        mixed = attend(q, k, v, mask.to(q.dtype))
        x = layer.attention_norm(x + heads.output(mixed.transpose(1, 2).flatten(2)))
        x = layer.feed_forward_norm(x + layer.contract(functional.relu(layer.expand(x))))
    return gpt.head(x[:, words:]).float(), guided


def build() -> SemanticGPT:
    """A GPT to begin from: a code starts out as its phoneme, so that the two are easily matched."""
    gpt = SemanticGPT(CONFIG)
    phone_of = torch.from_numpy(Codebook.load().codes[:, :CLASSES].argmax(1))
    phones = torch.randn(CLASSES, CONFIG.hidden_dim)
    with torch.no_grad():
        text, sound = gpt.text_embedding.weight, gpt.audio_embedding.weight
        text.copy_(0.8 * phones[torch.from_numpy(classes())] + 0.4 * torch.randn_like(text))
        sound[:EOS] = 0.8 * phones[phone_of] + 0.4 * torch.randn_like(sound[:EOS])
        gpt.bert_projection.weight.zero_()
        nn.init.normal_(gpt.bert_projection.bias, 0.0, 0.3)
        nn.init.normal_(gpt.head.weight, 0.0, 0.02)
    gpt.bert_projection.weight.requires_grad_(False)
    return gpt


def losses(
    gpt: SemanticGPT, rows: list[Row], source: Source | None, guide: float
) -> dict[str, Tensor]:
    """Cross entropy of the tokens and the end, and of the guided heads' places."""
    tokens = padded([row.tokens for row in rows], EOS)
    told = tokens if source is None else source.corrupt(tokens)
    logits, guided = forward(gpt, rows, told)
    # Position j predicts token j + 1; after the last one comes the end.
    wanted = functional.pad(tokens[:, 1:], (0, 1), value=EOS)
    judged = padded([np.append(row.judged[1:], True) for row in rows], 0).bool()
    parts = {"token": functional.cross_entropy(logits[judged], wanted[judged])}
    inside = padded([np.ones(len(row.tokens), bool) for row in rows], 0).bool()
    now = padded([row.places for row in rows], 0)
    following = torch.minimum(now + 1, torch.tensor([[len(row.phonemes) - 1] for row in rows]))
    sought = torch.stack([now, following], dim=1)  # [B, 2, audio]
    each = [
        functional.cross_entropy(scores.transpose(1, 2)[inside].flatten(0, 1),
                                 sought.mT[inside].flatten())
        for scores in guided
    ]  # fmt: skip
    parts["guide"] = guide * torch.stack(each).mean()
    if source is None:
        parts["right"] = (logits.argmax(-1) == wanted)[judged].float().mean()
    return parts


@click.command()
@click.option("--minutes", default=22.0, show_default=True, help="Of processor time.")
def main(minutes: float) -> None:
    """Train, or go on training, the GPT."""
    gpt = build()
    trainer = Trainer("gpt", gpt, 1e-3, minutes)
    source = Source(trainer.steps)
    log = places.logger("gpt")

    def step() -> dict[str, Tensor]:
        low, high = _PROMPTED
        rows = source.batch(low + (high - low) * trainer.progress)
        if trainer.steps % 250 == 249:
            with torch.inference_mode():
                judged = losses(trainer.mean, source.held_out(), None, 1.0)
            log.info("unseen: %s", {name: round(float(v), 3) for name, v in judged.items()})
        with torch.autocast("cpu", torch.bfloat16):
            return losses(gpt, rows, source, 0.3 if trainer.progress < 0.6 else 0.1)

    trainer.run(step)


if __name__ == "__main__":
    main()
