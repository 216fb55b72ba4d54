"""What is asked for becomes tensors: what was set, nothing else, of the right type."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gsv_client import Audio, InvalidRequest, SpeechOptions
from gsv_client.options import TENSORS, SpeechKeywords

DTYPES = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
REFERENCE = Audio(np.full(8_000 * 3, 0.5), 8_000)
ALL = SpeechOptions(
    language="en", voice="demo", reference=REFERENCE, reference_text="x", reference_language="en",
    top_k=1, top_p=1, temperature=1, repetition_penalty=1, seed=0, speed=1, sample_steps=1,
    split_method="cut0", pause_seconds=0, sample_rate=8_000,
    guard=0,
)  # fmt: skip


def test_only_what_was_set_is_sent() -> None:
    assert list(SpeechOptions().tensors("x")) == ["TEXT"]
    assert set(SpeechOptions(seed=0, pause_seconds=0.0).tensors("x")) == {
        "TEXT", "SEED", "PAUSE_SECONDS",
    }  # fmt: skip


def test_every_tensor_of_the_table() -> None:
    tensors = ALL.tensors("你好")
    assert set(tensors) == {tensor.name for tensor in TENSORS.values()}
    for tensor in TENSORS.values():
        array = tensors[tensor.name]
        assert array.dtype == DTYPES[tensor.datatype], tensor.name
        assert array.shape == ((1, 24_000) if tensor.length == -1 else (1, 1)), tensor.name
    assert tensors["TEXT"].item() == "你好".encode()


def test_keywords_and_fields_are_the_same() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(SpeechOptions)}
    assert fields == {n: h.__forward_arg__ for n, h in SpeechKeywords.__annotations__.items()}
    assert set(fields) | {"text", "reference_sample_rate"} == set(TENSORS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 1.5}, "TOP_K: got 1.5; allowed: a whole number"),
        ({"top_k": True}, "TOP_K: got True; allowed: a whole number"),
        ({"top_k": 2**31}, "TOP_K: got 2147483648; allowed: -2147483648 to 2147483647"),
        ({"seed": 2**63}, "SEED: got 9223372036854775808; allowed"),
        ({"speed": "fast"}, "SPEED: got 'fast'; allowed: a number"),
        ({"speed": float("nan")}, "SPEED: got nan; allowed: a finite number"),
        ({"top_p": float("inf")}, "TOP_P: got inf; allowed: a finite number"),
        ({"top_p": 10**400}, f"TOP_P: got 1{400 * '0'}; allowed: a finite number"),
        ({"voice": 3}, "VOICE: got 3; allowed: a string"),
        ({"language": b"en"}, "LANGUAGE: got b'en'; allowed: a string"),
    ],
)
def test_what_a_tensor_cannot_hold(options: dict, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SpeechOptions(**options).tensors("x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "TEXT: empty"),
        (" \n", "TEXT: empty"),
        ("a\ud83d", r"TEXT: character 1 \('\\ud83d'\) is half of a surrogate pair"),
        (None, "TEXT: got None; allowed: a string"),
    ],
)
def test_texts_that_cannot_be_sent(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        SpeechOptions().tensors(text)


def test_numpys_numbers_are_numbers() -> None:
    tensors = SpeechOptions(top_k=np.int64(3), speed=np.float32(1.5)).tensors("x")  # type: ignore[arg-type]
    assert (tensors["TOP_K"].item(), tensors["SPEED"].item()) == (3, 1.5)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="speeed"):
        SpeechOptions(speeed=1.0)  # type: ignore[call-arg]


def test_a_reference_needs_its_text(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 8_000)
    for reference in (tmp_path / "a.wav", str(tmp_path / "a.wav"), (np.zeros(24_000), 8_000)):
        assert SpeechOptions(reference=reference, reference_text="x").tensors("x")[
            "REFERENCE_SAMPLE_RATE"
        ].tolist() == [[8_000]]
        with pytest.raises(InvalidRequest, match="reference_text: missing"):
            SpeechOptions(reference=reference)


def test_a_path_is_read_at_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 8_000)
    options = SpeechOptions(reference=tmp_path / "a.wav", reference_text="x")
    (tmp_path / "a.wav").unlink()
    assert options.tensors("x")["REFERENCE_AUDIO"].shape == (1, 24_000)


def test_a_fixed_seed_moves_on_with_the_sentences() -> None:
    assert SpeechOptions(seed=0).for_sentence(2).seed == 2
    assert SpeechOptions(seed=2**63 - 1).for_sentence(1).seed == 0
    assert SpeechOptions(seed=-1).for_sentence(2).seed == -1
    assert SpeechOptions().for_sentence(2).seed is None
