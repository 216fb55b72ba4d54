"""Text to audio through a real tritonserver with tiny random weights."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from server.test_soak import metrics, wait_until_idle
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gsv.serving.backend.priority import NICENESS
from gsv.serving.server import processes
from gsv.serving.server.launcher import EmbeddedServer

pytestmark = pytest.mark.server

TEXTS = (
    "Hello there.",
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "今天天气真好，我们去公园散步吧。",
    "One. Two sentences here. And a third one, somewhat longer than the others!",
)


def infer_inputs(module: Any, values: dict[str, Any]) -> list[Any]:
    """Tensors with the leading 1, typed as the interface says."""
    kinds = {"SEED": np.int64}
    inputs = []
    for name, value in values.items():
        if isinstance(value, str):
            array = np.array([[value.encode()]], dtype=np.object_)
        elif isinstance(value, np.ndarray):
            array = value[None]
        else:
            kind = kinds.get(name, np.int32 if isinstance(value, int) else np.float32)
            array = np.array([[value]], dtype=kind)
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def speak(server: Any, protocol: str = "grpc", **values: Any) -> tuple[np.ndarray, int]:
    """One unary request to the public model; audio without the leading 1, and its rate."""
    module, url = (
        (grpc_client, server.grpc_url) if protocol == "grpc" else (http_client, server.http_url)
    )
    values.setdefault("SAMPLE_STEPS", 4)
    with module.InferenceServerClient(url) as client:
        answer = client.infer("gpt_sovits_v4", infer_inputs(module, values))
        return answer.as_numpy("AUDIO")[0], int(answer.as_numpy("SAMPLE_RATE")[0, 0])


def counts(server: Any, model: str) -> tuple[int, int]:
    """Requests and executions of a model so far."""
    url = f"http://{server.http_url}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=10) as response:
        stats = json.load(response)["model_stats"][0]
    return int(stats["inference_count"]), int(stats["execution_count"])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("text", TEXTS)
def test_speaks(server: Any, protocol: str, text: str) -> None:
    audio, rate = speak(server, protocol, TEXT=text, SEED=3)
    assert rate == 48_000
    assert audio.dtype == np.float32
    assert 0.5 < len(audio) / rate < 120
    assert np.isfinite(audio).all()
    assert 0.001 < np.abs(audio).max() <= 1.0


def test_models_are_nicer_than_a_process_that_starts(server: EmbeddedServer) -> None:
    """Which therefore is soon back, however busy they are."""
    usual = os.getpriority(os.PRIO_PROCESS, server.pid)
    niceness: dict[str, set[int]] = {}
    for stub in processes.living_stubs(server.pid):
        for task in Path(f"/proc/{stub.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # threads come and go
                own = os.getpriority(os.PRIO_PROCESS, int(task.name))
                niceness.setdefault(stub.model, set()).add(own)
    assert {"gpt_sovits_v4", "text_frontend", "vocoder"} < niceness.keys()
    assert niceness == dict.fromkeys(niceness, {min(usual + NICENESS, 19)})


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100])
def test_other_output_rates_have_the_same_length_in_seconds(server: Any, rate: int) -> None:
    whole, _ = speak(server, TEXT=TEXTS[0], SEED=4)
    audio, given = speak(server, TEXT=TEXTS[0], SEED=4, SAMPLE_RATE=rate)
    assert given == rate
    assert abs(len(audio) / rate - len(whole) / 48_000) < 0.001


def test_pause_is_true_seconds(server: Any) -> None:
    short, rate = speak(server, TEXT=TEXTS[0], SEED=5, PAUSE_SECONDS=0.0)
    long, _ = speak(server, TEXT=TEXTS[0], SEED=5, PAUSE_SECONDS=1.5)
    assert len(long) - len(short) == round(1.5 * rate)
    assert not long[-round(1.5 * rate) :].any()


def test_same_seed_same_audio_and_another_seed_another(server: Any) -> None:
    first, _ = speak(server, TEXT=TEXTS[1], SEED=6)
    again, _ = speak(server, "http", TEXT=TEXTS[1], SEED=6)
    other, _ = speak(server, TEXT=TEXTS[1], SEED=7)
    np.testing.assert_allclose(first, again, atol=1e-4)
    assert len(other) != len(first) or np.abs(other - first).max() > 1e-2


def shared(server: Any, model: str) -> tuple[float, float]:
    """Steps of a model's running batch so far, and the rows of all of them."""
    told = metrics(server)
    steps, rows = (
        sum(v for name, v in told.items() if name.startswith(f'gsv_batch_{of}{{model="{model}"'))
        for of in ("steps", "rows")
    )
    return steps, rows


def test_an_answer_does_not_depend_on_its_neighbours_and_they_share_steps(server: Any) -> None:
    requests = [dict(TEXT=TEXTS[i % len(TEXTS)], SEED=100 + i) for i in range(16)]
    alone = [speak(server, **request)[0] for request in requests]
    inferences = {m: counts(server, m)[0] for m in ("text_frontend", "sovits_v4")}
    steps, rows = shared(server, "semantic_gpt")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda request: speak(server, **request)[0], requests))
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(one, other, atol=2e-4)
    for model, count in inferences.items():
        assert counts(server, model)[0] - count == 16
    wait_until_idle(server)
    # On a CPU the flow takes one sentence at a time; the GPT takes all that are there.
    now = shared(server, "semantic_gpt")
    assert now[1] - rows > 1.5 * (now[0] - steps), "requests must share steps"


def test_reference_in_the_request(server: Any) -> None:
    time = np.arange(4 * 24_000) / 24_000
    wave = (0.3 * np.sin(2 * np.pi * 180 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2).astype(
        np.float32
    )
    audio, rate = speak(
        server,
        TEXT=TEXTS[0],
        REFERENCE_AUDIO=wave,
        REFERENCE_SAMPLE_RATE=24_000,
        REFERENCE_TEXT="A made-up tone that says nothing.",
        SEED=8,
    )
    assert rate == 48_000
    assert len(audio) > 10_000


WAVE = (0.1 * np.sin(np.arange(4 * 16_000) / 20)).astype(np.float32)
REFERENCE = {
    "REFERENCE_AUDIO": WAVE,
    "REFERENCE_SAMPLE_RATE": 16_000,
    "REFERENCE_TEXT": "Four seconds.",
}
BAD_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("TEXT", {"TEXT": ""}),
    ("TEXT", {"TEXT": "   "}),
    ("TEXT", {"TEXT": "a" * 10_001}),
    ("LANGUAGE", {"LANGUAGE": "fr"}),
    ("VOICE", {"VOICE": "nobody"}),
    ("VOICE", {"VOICE": "../sample"}),
    ("VOICE", {"VOICE": "sample", **REFERENCE}),
    ("TOP_K", {"TOP_K": 0}),
    ("TOP_K", {"TOP_K": 1026}),
    ("TOP_P", {"TOP_P": 0.0}),
    ("TOP_P", {"TOP_P": 1.01}),
    ("TOP_P", {"TOP_P": float("nan")}),
    ("TEMPERATURE", {"TEMPERATURE": 0.0}),
    ("TEMPERATURE", {"TEMPERATURE": 2.5}),
    ("REPETITION_PENALTY", {"REPETITION_PENALTY": 0.9}),
    ("REPETITION_PENALTY", {"REPETITION_PENALTY": 2.1}),
    ("SEED", {"SEED": -2}),
    ("SPEED", {"SPEED": 0.5}),
    ("SPEED", {"SPEED": 1.7}),
    ("SAMPLE_STEPS", {"SAMPLE_STEPS": 0}),
    ("SAMPLE_STEPS", {"SAMPLE_STEPS": 101}),
    ("SPLIT_METHOD", {"SPLIT_METHOD": "cut6"}),
    ("PAUSE_SECONDS", {"PAUSE_SECONDS": -0.1}),
    ("PAUSE_SECONDS", {"PAUSE_SECONDS": 5.5}),
    ("SAMPLE_RATE", {"SAMPLE_RATE": 11_025}),
    ("REFERENCE_LANGUAGE", {"REFERENCE_LANGUAGE": "xx"}),
    ("REFERENCE_TEXT", {k: v for k, v in REFERENCE.items() if k != "REFERENCE_TEXT"}),
    ("REFERENCE_SAMPLE_RATE", {k: v for k, v in REFERENCE.items() if "RATE" not in k}),
    ("REFERENCE_AUDIO", {k: v for k, v in REFERENCE.items() if k != "REFERENCE_AUDIO"}),
    ("REFERENCE_AUDIO", {**REFERENCE, "REFERENCE_AUDIO": WAVE[:32_000]}),
    ("REFERENCE_AUDIO", {**REFERENCE, "REFERENCE_AUDIO": np.tile(WAVE, 3)}),
    ("REFERENCE_AUDIO", {**REFERENCE, "REFERENCE_AUDIO": WAVE * 30}),
    ("REFERENCE_AUDIO", {**REFERENCE, "REFERENCE_AUDIO": WAVE * np.nan}),
    ("REFERENCE_SAMPLE_RATE", {**REFERENCE, "REFERENCE_SAMPLE_RATE": 4_000}),
]


@pytest.mark.parametrize(("tensor", "values"), BAD_REQUESTS)
def test_a_bad_request_is_invalid_and_says_why(
    server: Any, tensor: str, values: dict[str, Any]
) -> None:
    for protocol, code in (("grpc", "INVALID_ARGUMENT"), ("http", "400")):
        with pytest.raises(InferenceServerException) as caught:
            speak(server, protocol, **{"TEXT": TEXTS[0], **values})
        assert code in str(caught.value.status())
        assert tensor in caught.value.message()
        assert "allowed" in caught.value.message()


def test_bytes_that_are_no_utf8_and_two_rows_are_refused(server: Any) -> None:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        for rows, part in (([[b"\xff\xfe"]], "UTF-8"), ([[b"a"], [b"b"]], "first dimension of 1")):
            array = np.array(rows, dtype=np.object_)
            tensor = grpc_client.InferInput("TEXT", list(array.shape), "BYTES")
            tensor.set_data_from_numpy(array)
            with pytest.raises(InferenceServerException, match=part) as caught:
                client.infer("gpt_sovits_v4", [tensor])
            assert "INVALID_ARGUMENT" in str(caught.value.status())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_request_without_text_is_refused(server: Any, protocol: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        speak(server, protocol, SEED=3)
    assert ("INVALID_ARGUMENT" if protocol == "grpc" else "400") in str(caught.value.status())
    assert "TEXT: is missing" in caught.value.message()


def test_one_bad_request_leaves_the_others_untouched(server: Any) -> None:
    good = dict(TEXT=TEXTS[0], SEED=11)
    expected, _ = speak(server, **good)
    mixed = [dict(good) if i % 2 else dict(TEXT=TEXTS[0], TOP_K=0) for i in range(8)]

    def attempt(values: dict[str, Any]) -> Any:
        try:
            return speak(server, **values)[0]
        except InferenceServerException as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, mixed))
    for values, answer in zip(mixed, answers, strict=True):
        if "TOP_K" in values:
            assert isinstance(answer, InferenceServerException)
        else:
            np.testing.assert_allclose(answer, expected, atol=2e-4)


def test_generate_endpoint(server: Any) -> None:
    body = json.dumps({"TEXT": TEXTS[0], "SEED": 3, "SAMPLE_STEPS": 4}).encode()
    url = f"http://{server.http_url}/v2/models/gpt_sovits_v4/generate"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=120) as response:
        answer = json.load(response)
    assert answer["SAMPLE_RATE"] == 48_000
    assert len(answer["AUDIO"]) > 10_000


def test_the_ensemble_gives_the_same_answer(server: Any) -> None:
    options = {"SEED": 5, "SAMPLE_STEPS": 4, "LANGUAGE": "en"}
    complete = {
        "TEXT": TEXTS[1], "VOICE": "sample", "REFERENCE_TEXT": "", "REFERENCE_LANGUAGE": "auto",
        "TOP_K": 15, "TOP_P": 1.0, "TEMPERATURE": 1.0, "REPETITION_PENALTY": 1.35, "SPEED": 1.0,
        "SPLIT_METHOD": "cut5", "PAUSE_SECONDS": 0.3, "SAMPLE_RATE": 48_000, "GUARD": 1,
        "DETAILS": 0, **options,
    }  # fmt: skip
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(
            "gpt_sovits_v4_pipeline", infer_inputs(grpc_client, complete),
            sequence_id=77, sequence_start=True, sequence_end=True,
        ).as_numpy("AUDIO")[0]  # fmt: skip
    expected, _ = speak(server, TEXT=TEXTS[1], **options)
    np.testing.assert_allclose(answer, expected, atol=2e-4)
