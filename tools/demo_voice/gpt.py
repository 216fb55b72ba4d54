"""Trains the GPT: phonemes to tokens, its attention guided by the times of the phones.

.venv/bin/python tools/demo_voice/gpt.py [--minutes 120]
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np
import places
import torch
from alignment import MARKS
from codes import CLASSES, Codebook, Tokenized, classes, token_phones
from corpus import LEAD_SECONDS
from data import HELD_OUT, Array
from loop import Trainer, attend, limits, on
from torch import Tensor, nn
from torch.nn import functional

from gsv.checkpoints.names.gpt import rename
from gsv.config import GPTConfig
from gsv.constants import EOS, FRAMES_PER_TOKEN, TOKEN_RATE
from gsv.models.gpt import Block, SemanticGPT
from gsv.text.symbols import symbol_ids

CONFIG = GPTConfig(hidden_dim=192, heads=6, layers=6)
TOKENS = 3_600  # of a batch, prompts included
_PROMPT = 120  # tokens that a prompt has at most; batches without one count from up to here
_GUIDED_LAYERS = (1, 2)  # their heads 0 and 1 are to look at the present and the next phone
_DROPPED = 0.1
_CORRUPTED = 0.08  # share of input tokens that are replaced, so that the GPT forgives its mistakes
_PROMPTED = (0.3, 0.85)  # share of batches with a prompt, at the beginning and at the end
_OWN_PROMPT = 0.6  # share of those whose prompt is the teacher's own reference
_CUT = 0.6  # share of the sentences with inner marks of which one piece is taken
_SHORTEST = 4  # phonemes of a piece
_UNIT = 10_000  # of the corpus's phone times
_IGNORED = -100  # place or token that is not judged
_JUDGE_STEPS = 500


@dataclasses.dataclass(frozen=True)
class Spoken:
    """An utterance, or a piece of one, as the GPT sees it."""

    phonemes: Array
    tokens: Array  # those of the sentence; a prompt has its tail's as well
    tail: Array
    places: Array  # of each token, the phoneme that is spoken
    ends: Array  # of each phoneme, in tokens


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
    """Draws rows from the corpus: sentences, and their pieces as the product cuts texts."""

    def __init__(self, random: np.random.Generator, tokens: int = TOKENS) -> None:
        self._random, self._tokens = random, tokens
        said = Tokenized.load("corpus")
        held = set(range(len(said)))
        self._rows: dict[int, list[int]] = {}  # by teacher, in the order of their lengths
        for teacher in sorted(set(said.teachers.tolist())):
            own = np.flatnonzero(said.teachers == teacher)[:-HELD_OUT]
            held -= set(own.tolist())
            self._rows[teacher] = own[np.argsort(said.frames[own], kind="stable")].tolist()
        self._spoken = [spoken(said, i) for i in range(len(said))]
        self._pieces = [pieces(one) for one in self._spoken]
        self._held_out = sorted(held)
        judged = Tokenized.load("judged")
        self._references = {
            t: spoken(judged, int(np.flatnonzero(judged.teachers == t)[-1])) for t in self._rows
        }

    def batch(self, prompted: float) -> list[Row]:
        """Rows of like lengths by one teacher, with prompts or without."""
        teacher = int(self._random.choice(list(self._rows)))
        rows = self._rows[teacher]
        # The more tokens, the more often: a long sentence has more to learn from.
        at = len(rows) * np.sqrt(self._random.random()) if self._random.random() < 0.5 else (
            len(rows) * self._random.random()
        )  # fmt: skip
        size = len(self._spoken[rows[min(int(at), len(rows) - 1)]].tokens) + _PROMPT
        count = int(np.clip(self._tokens // size, 2, 128))
        first = max(0, min(int(at) - 2 * count, len(rows) - 4 * count))
        near = rows[first : first + 4 * count]
        chosen = [self._piece(int(i)) for i in self._random.choice(near, count)]
        if self._random.random() >= prompted:
            offset = int(self._random.integers(_PROMPT))
            return [
                Row(one.phonemes, one.tokens, one.places, np.ones(len(one.tokens), bool),
                    offset * 2 // 5, offset)
                for one in chosen
            ]  # fmt: skip
        if self._random.random() < _OWN_PROMPT:
            return [joined(self._references[teacher], one, judged=False) for one in chosen]
        short = rows[: max(1, 2 * len(rows) // 3)]
        return [
            joined(self._spoken[int(i)], one, judged=True)
            for i, one in zip(self._random.choice(short, count), chosen, strict=True)
        ]

    def held_out(self) -> list[Row]:
        """Unseen sentences behind the reference of their teacher."""
        half = len(self._held_out) // len(self._rows)
        teachers = list(self._rows)
        return [
            joined(self._references[teachers[n // half]], self._spoken[i], judged=False)
            for n, i in enumerate(self._held_out)
            if n % 8 == 0 and n // half < len(teachers)
        ]

    def corrupt(self, tokens: Tensor) -> Tensor:
        """Some tokens replaced: by near ones of the row, or by any."""
        shift = int(self._random.integers(1, 4)) * (-1) ** int(self._random.integers(2))
        drawn = self._random.random((2, *tokens.shape))
        hit = torch.from_numpy(drawn[0] < _CORRUPTED)
        anything = torch.from_numpy(self._random.integers(EOS, size=tuple(tokens.shape)))
        other = torch.where(torch.from_numpy(drawn[1] < 0.2), anything, tokens.roll(shift, 1))
        return torch.where(hit & (tokens != EOS), other, tokens)

    def _piece(self, index: int) -> Spoken:
        whole, cuts = self._spoken[index], self._pieces[index]
        if len(cuts) < 2 or self._random.random() > _CUT:
            return whole
        first = int(self._random.integers(len(cuts)))
        return cut(whole, *cuts[first])


def spoken(said: Tokenized, index: int) -> Spoken:
    """One row of what ``codes.py`` stored."""
    size = int(said.frames[index]) // FRAMES_PER_TOKEN
    phonemes, ends, tokens = said.phonemes[index], said.ends[index], said.tokens[index]
    where = token_phones(phonemes, ends, size)
    in_tokens = np.round(ends * (TOKEN_RATE / _UNIT)).astype(np.int64)
    return Spoken(phonemes, tokens[:size], tokens[size:], where, in_tokens)


def pieces(one: Spoken) -> list[tuple[int, int]]:
    """First and last + 1 phoneme of each piece that ends in a mark."""
    marks = set(symbol_ids(sorted(MARKS)))
    found, first = [], 0
    for place, phoneme in enumerate(one.phonemes.tolist()):
        if phoneme in marks and place:
            if place + 1 - first >= _SHORTEST:
                found.append((first, place + 1))
            first = place + 1
    return found


def cut(one: Spoken, first: int, last: int) -> Spoken:
    """A piece, with the silence before it that a sentence has."""
    lead = round(LEAD_SECONDS * TOKEN_RATE)
    begin = max(0, int(one.ends[first - 1]) - lead) if first else 0
    end = len(one.tokens) if last == len(one.phonemes) else int(one.ends[last - 1])
    where = (one.places[begin:end] - first).clip(0, last - first - 1)
    return Spoken(one.phonemes[first:last], one.tokens[begin:end], one.tail, where,
                  one.ends[first:last] - begin)  # fmt: skip


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

    The same sums as the product's ``prefill``, whose rows have their text's padding elsewhere; in
    training some of what the layers add is dropped.
    """

    def dropped(values: Tensor) -> Tensor:
        return functional.dropout(values, _DROPPED, gpt.training)

    device = tokens.device
    ids = padded([row.phonemes for row in rows], -1)
    known = on(ids >= 0, device)
    phonemes = on(ids.clamp(min=0), device)
    offsets = on(torch.tensor([[row.text_offset, row.audio_offset] for row in rows]), device)
    table = gpt.position_table
    words, heard = phonemes.shape[1], tokens.shape[1]
    text = gpt.text_embedding(phonemes) + gpt.bert_projection.bias
    at = offsets[:, :1] + torch.arange(words, device=device)
    text = text + gpt.text_alpha * table[at]
    at = offsets[:, 1:] + torch.arange(heard, device=device)
    sound = gpt.audio_embedding(tokens) + gpt.audio_alpha * table[at]
    x = torch.cat([text, sound], dim=1)
    size = words + heard
    visible = torch.zeros(len(rows), size, size, dtype=torch.bool, device=device)
    visible[:, :, :words] = known[:, None]
    visible[:, words:, words:] = torch.ones(heard, heard, device=device).tril().bool()
    mask = torch.zeros(len(rows), 1, size, size, device=device)
    mask = mask.masked_fill(~visible[:, None], -torch.inf)
    guided = []
    bias: Tensor | None = None  # the mask in the queries' precision
    for index, layer in enumerate(gpt.layers):
        assert isinstance(layer, Block)
        heads = layer.attention
        q, k, v = heads.qkv(x).unflatten(-1, (3, heads.heads, -1)).transpose(1, 3).unbind(2)
        if index in _GUIDED_LAYERS:
            scores = q[:, :2, words:] @ k[:, :2].mT / q.shape[-1] ** 0.5
            guided.append(scores.float() + mask[:, :, words:])
        bias = mask.to(q.dtype) if bias is None else bias
        mixed = attend(q, k, v, bias)
        x = layer.attention_norm(x + dropped(heads.output(mixed.transpose(1, 2).flatten(2))))
        hidden = functional.relu(layer.expand(x))
        x = layer.feed_forward_norm(x + dropped(layer.contract(hidden)))
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
    device = gpt.position_table.device
    tokens = padded([row.tokens for row in rows], EOS)
    told = tokens if source is None else source.corrupt(tokens)
    logits, guided = forward(gpt, rows, on(told, device))
    # Position j predicts token j + 1; after the last one comes the end.
    wanted = functional.pad(tokens[:, 1:], (0, 1), value=EOS)
    judged = padded([np.append(row.judged[1:], True) for row in rows], 0).bool()
    wanted, judged = on(wanted.masked_fill(~judged, _IGNORED), device), on(judged, device)
    parts = {"token": functional.cross_entropy(logits.mT, wanted, ignore_index=_IGNORED)}
    now = padded([row.places for row in rows], _IGNORED)
    last = torch.tensor([[len(row.phonemes) - 1] for row in rows])
    following = torch.where(now < 0, now, torch.minimum(now + 1, last))
    sought = on(torch.stack([now, following], dim=1), device)  # [B, 2, audio]
    each = [
        functional.cross_entropy(scores.permute(0, 3, 1, 2), sought, ignore_index=_IGNORED)
        for scores in guided
    ]
    parts["guide"] = guide * torch.stack(each).mean()
    if source is None:
        parts["right"] = (logits.argmax(-1) == wanted)[judged].float().mean()
    return parts


def going_on(path: Path) -> SemanticGPT:
    """A GPT in the official format, to go on from."""
    file = torch.load(path, weights_only=True)
    model = file["config"]["model"]
    gpt = SemanticGPT(
        GPTConfig(hidden_dim=model["hidden_dim"], heads=model["head"], layers=model["n_layer"])
    )
    state = {rename(key): value.float() for key, value in file["weight"].items()}
    gpt.load_state_dict({name: value for name, value in state.items() if name}, strict=True)
    gpt.bert_projection.weight.requires_grad_(False)
    return gpt


def trained() -> SemanticGPT:
    """The running mean of the training, for use."""
    state = torch.load(places.RUN / "gpt.pt", weights_only=True, map_location="cpu")["mean"]
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
    gpt = SemanticGPT(dataclasses.replace(CONFIG, layers=layers))
    gpt.load_state_dict(state)
    return gpt.eval()


@click.command()
@limits(minutes=120.0)
@click.option("--init", type=click.Path(exists=True, path_type=Path), help="An s1v3.ckpt.")
def main(minutes: float, steps: int | None, device: str, init: Path | None) -> None:
    """Train, or go on training, the GPT."""
    torch.manual_seed(2)
    gpt = going_on(init) if init else build()
    trainer = Trainer("gpt", gpt, 5e-4 if init else 1e-3, minutes, steps, device, seed=2)
    source = Source(trainer.random, TOKENS * trainer.scale)
    log = places.logger("gpt")

    def step() -> dict[str, Tensor]:
        low, high = _PROMPTED
        rows = source.batch(low + (high - low) * trainer.progress)
        if trainer.steps % _JUDGE_STEPS == _JUDGE_STEPS - 1:
            with torch.inference_mode(), trainer.autocast():
                judged = losses(trainer.mean, source.held_out(), None, 1.0)
            log.info("unseen: %s", {name: round(float(v), 3) for name, v in judged.items()})
        with trainer.autocast():
            return losses(gpt, rows, source, 0.3 if trainer.progress < 0.6 else 0.1)

    trainer.finish(step)


if __name__ == "__main__":
    main()
