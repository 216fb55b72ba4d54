"""Tokens beside phonemes: the likeliest way that never goes back, borders, the head that knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpt_models import golden_gpt, random_request

from gsv.engine.gpt.alignment import Alignment, align_sentence, likeliest_paths, phoneme_borders
from gsv.models.gpt import SemanticGPT
from gsv.stages.word_times import SpokenWord, times_json, word_times

RNG = np.random.default_rng(4)


def looking(path: list[int], phonemes: int, share: float = 0.6) -> np.ndarray:
    """Weights of a head that looks along ``path`` and, with the rest, anywhere."""
    weights = RNG.random((len(path), phonemes)) + 0.01
    weights *= (1 - share) / weights.sum(axis=1, keepdims=True)
    weights[np.arange(len(path)), path] += share
    return weights


@pytest.mark.parametrize(
    "path",
    [
        [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5],
        [0, 1, 2, 3, 4, 5],
        [0] * 40 + [1] * 2 + [2] * 30 + [3, 4, 5, 5],
    ],
)
def test_a_clear_way_is_found(path: list[int]) -> None:
    (found,) = likeliest_paths(looking(path, 6, 0.9)[None])
    assert found.tolist() == path


def test_each_head_has_its_own_way() -> None:
    paths = [[0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 2, 2], [0, 0, 0, 0, 1, 2]]
    found = likeliest_paths(np.stack([looking(path, 3, 0.9) for path in paths]))
    assert found.tolist() == paths


@pytest.mark.parametrize(("tokens", "phonemes"), [(1, 1), (1, 9), (3, 40), (40, 3), (7, 7)])
def test_a_way_never_goes_back_and_ends_near_the_end(tokens: int, phonemes: int) -> None:
    for _ in range(20):
        (path,) = likeliest_paths(RNG.random((1, tokens, phonemes)))
        assert (np.diff(path) >= 0).all()
        assert 0 <= path[0] <= path[-1] < phonemes
        borders = phoneme_borders(path, phonemes)
        assert borders.shape == (phonemes + 1,)
        assert (borders[0], borders[-1]) == (0, tokens)
        assert (np.diff(borders) >= 0).all()


def test_a_sentence_that_is_not_over_may_be_anywhere() -> None:
    path = [0, 0, 1, 1, 2, 2]
    weights = looking(path, 30, 0.9)[None]
    assert likeliest_paths(weights, ended=False)[0].tolist() == path
    assert likeliest_paths(weights, ended=True)[0, -1] > 20


def test_borders_of_phonemes_without_a_token() -> None:
    assert phoneme_borders(np.array([0, 0, 2, 2]), 3).tolist() == [0, 2, 2.5, 4]
    assert phoneme_borders(np.array([1, 1]), 2).tolist() == [0, 0.5, 2]
    assert phoneme_borders(np.array([0, 0, 0, 0]), 2).tolist() == [0, 2, 4]


@pytest.mark.golden
def test_the_weights_are_those_of_decoding() -> None:
    """A layer that explains itself answers as it does with a cache."""
    model = golden_gpt("tiny").eval()
    config = model.config
    request = random_request(RNG, config, seed=1)
    tokens = np.concatenate([request.prompt_tokens, RNG.integers(0, config.eos, 30)])
    x = model.embed_prompt(
        torch.from_numpy(request.phonemes).long(),
        torch.from_numpy(request.bert),
        torch.from_numpy(tokens).long(),
    )[None]
    text, length = len(request.phonemes), x.shape[1]
    shape = (1, length, config.heads, config.hidden_dim // config.heads)
    cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in model.layers]
    with torch.inference_mode():
        model.prefill(x, torch.tensor([text]), torch.tensor([length]), cache)
        layers = list(model.attention_weights(x, text, text))
    assert len(layers) == config.layers
    for weights, (keys, _) in zip(layers, cache, strict=True):
        assert weights.shape == (config.heads, length - text, text)
        assert (weights.sum(-1) <= 1 + 1e-5).all()
        del keys
    # The last layer's input is right only if all layers before it were: its keys tell.
    with torch.inference_mode():
        places, inner = torch.arange(length), x
        mask = torch.zeros(length, length).masked_fill(
            places > places.clamp(min=text - 1)[:, None], -torch.inf
        )
        for layer, (keys, _) in zip(model.layers, cache, strict=True):
            qkv = layer.attention.qkv(inner).unflatten(-1, (3, config.heads, -1))
            torch.testing.assert_close(qkv[:, :, 1], keys, atol=2e-4, rtol=1e-4)
            inner, _ = layer.explained(inner, mask)


class Knowing(SemanticGPT):
    """Heads that look where the test says."""

    def __init__(self, layers: list[np.ndarray]) -> None:
        torch.nn.Module.__init__(self)
        self.head = torch.nn.Linear(2, 2)
        self.given = layers

    def embed_prompt(self, *_: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 4)

    def attention_weights(self, x: torch.Tensor, text_length: int, first: int):  # type: ignore[no-untyped-def]
        assert (text_length, first) == (8, 11)
        for weights in self.given:
            yield torch.from_numpy(weights)


def test_the_head_that_follows_the_sentence_is_taken() -> None:
    path = [0, 1, 1, 2, 2, 3, 4, 5, 5, 5]
    prompt = np.full((3, 10, 2), 0.01)

    def layer(*heads: np.ndarray) -> np.ndarray:
        return np.concatenate([prompt[: len(heads)], np.stack(heads)], axis=2)

    noise = [looking(RNG.integers(0, 6, 10).tolist(), 6, 0.9) for _ in range(4)]
    model = Knowing([layer(noise[0], noise[1]), layer(looking(path, 6), noise[2]), layer(noise[3])])
    found = align_sentence(
        model,
        np.zeros(8, np.int32),
        np.zeros((8, 4), np.float32),
        np.zeros(3, np.int32),
        np.zeros(10, np.int32),
        own=6,
    )
    assert found.path.tolist() == path
    assert found.confidence > 0.6
    assert found.passed_over == 0
    assert found.looks.tolist() == path
    assert found.jump_back == 0


@pytest.mark.parametrize(
    ("looks", "jump"),
    [
        ([0, 1, 2, 3, 4, 5], 0),
        ([0, 1, 2, 3, 0, 4, 5], 0),  # a glance
        ([0, 1, 2, 3, 4, 4, 1, 2, 3, 4, 5], 2),
        ([4], 0),
        ([], 0),
    ],
)
def test_a_jump_back_takes_two_tokens(looks: list[int], jump: int) -> None:
    found = Alignment(np.zeros(7), np.zeros(0, np.int64), 0.5, np.array(looks, np.int64))
    assert found.jump_back == jump


def test_words_get_the_time_of_their_phonemes() -> None:
    words = [SpokenWord("Hi", 2), SpokenWord("", 1), SpokenWord("you", 1), SpokenWord("", 1)]
    borders = np.array([0, 2.5, 5, 10, 20, 25])
    times = list(word_times(words, borders, sentence=3, start=10.0, seconds=0.5))
    assert [(t.word, t.start, t.end, t.sentence) for t in times] == [
        ("Hi", 10.0, 10.1, 3),
        ("you", 10.2, 10.4, 3),
    ]
    assert times_json(times[:1]) == '[{"word": "Hi", "start": 10.0, "end": 10.1, "sentence": 3}]'
