"""Demo weights: upstream's layouts, the golden rule, and sentences that end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import make_weights, manifest

from gsv.checkpoints import demo as module
from gsv.checkpoints.convert import convert_gpt
from gsv.checkpoints.reader import read_checkpoint
from gsv.constants import EOS, TOKEN_RATE
from gsv.models.gpt import SemanticGPT

FILES = {
    "s1v3": "s1v3.ckpt",
    "s2Gv4": "gsv-v4-pretrained/s2Gv4.pth",
    "vocoder": "gsv-v4-pretrained/vocoder.pth",
}
SHAPED = {
    "model.h.layers.1.norm2.weight", "model.h.layers.1.norm2.bias", "model.ar_predict_layer.weight",
}  # fmt: skip


@pytest.mark.parametrize("size", module.SIZES)
@pytest.mark.parametrize("name", FILES)
def test_layouts_are_those_of_the_manifests(name: str, size: str) -> None:
    try:
        expected = manifest(name, size)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    layout = module._layouts(size)[name]
    assert list(layout["tensors"].items()) == [(t["key"], t["shape"]) for t in expected["tensors"]]
    for part in ("config", "arch"):
        assert layout.get(part) == expected.get(part)


@pytest.mark.parametrize(("name", "which"), [("s1v3", "s1"), ("s2Gv4", "s2"), ("vocoder", "voc")])
def test_values_follow_the_golden_rule(demo: Path, name: str, which: str) -> None:
    made = torch.load(demo / FILES[name], weights_only=True)
    weights = made.get("weight", made)
    prefix = "vocoder." if which == "voc" else ""
    expected = make_weights().build(manifest(name, "tiny"), which, 0, prefix)
    assert list(weights) == list(expected)
    different = {key for key, value in expected.items() if not torch.equal(weights[key], value)}
    assert different == (SHAPED if which == "s1" else set())


def test_only_the_end_of_a_sentence_is_shaped(demo: Path) -> None:
    weights = torch.load(demo / FILES["s1v3"], weights_only=True)["weight"]
    expected = make_weights().build(manifest("s1v3", "tiny"), "s1", 0)
    head = "model.ar_predict_layer.weight"
    assert torch.equal(weights[head][:EOS], expected[head][:EOS])
    for key in SHAPED - {head}:
        assert torch.equal(weights[key][1:], expected[key][1:])


def test_sentences_end_by_themselves(demo: Path) -> None:
    converted = convert_gpt(read_checkpoint(demo / FILES["s1v3"]))
    model = SemanticGPT(converted.config)
    model.load_state_dict(converted.tensors)
    seconds = torch.tensor(sentence_lengths(model.eval(), rows=32, limit=400)) / TOKEN_RATE
    assert 1.0 < seconds.median() < 6.0
    assert (seconds < 8.0).float().mean() > 0.9


@torch.inference_mode()
def sentence_lengths(model: SemanticGPT, rows: int, limit: int) -> list[int]:
    """Tokens before the end of ``rows`` sentences at the default sampling, the slow way."""
    generator = torch.Generator().manual_seed(0)
    phonemes = torch.randint(1, 732, (rows, 60), generator=generator)
    prompt = torch.randint(0, EOS, (100,), generator=generator)
    bert = torch.zeros(60, model.config.bert_dim)
    x = torch.stack([model.embed_prompt(p, bert, prompt) for p in phonemes])
    heads, width = model.config.heads, model.config.hidden_dim // model.config.heads
    shape = (rows, x.shape[1] + limit, heads, width)
    cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(model.config.layers)]

    def window(end: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(keys[:, :end], values[:, :end]) for keys, values in cache]

    text = torch.full((rows,), phonemes.shape[1])
    here = torch.full((rows,), x.shape[1])
    logits = model.prefill(x, text, here, window(x.shape[1]))
    seen = torch.zeros(rows, EOS + 1, dtype=torch.bool)
    seen[:, prompt] = True
    lengths = [limit] * rows
    for step in range(limit):
        penalised = torch.where(logits < 0, logits * 1.35, logits / 1.35)
        logits = torch.where(seen, penalised, logits)
        if step < 11:
            logits[:, EOS] = -torch.inf
        best = logits.topk(15)
        drawn = torch.multinomial(best.values.softmax(1), 1, generator=generator)
        token = best.indices.gather(1, drawn)[:, 0]
        ended = (token == EOS) | (best.indices[:, 0] == EOS)
        for row in ended.nonzero()[:, 0].tolist():
            lengths[row] = min(lengths[row], step)
        if max(lengths) < limit:
            break
        seen[torch.arange(rows), token] = True
        logits = model.decode(token, here + step, text, window(x.shape[1] + step + 1))
    return lengths
