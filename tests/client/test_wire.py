"""Tensors as bytes and JSON, and server-sent events cut anywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gsv_client import InvalidRequest, ServerError
from gsv_client.transport import wire
from gsv_client.transport.base import Request

EVENTS = b'data: {"A": 1}\n\ndata: {"B":"\xe4\xbd\xa0"}\n\n: comment\n\ndata:{}\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_cut_anywhere(size: int) -> None:
    pieces = [EVENTS[i : i + size] for i in range(0, len(EVENTS), size)]
    assert list(wire.events(pieces)) == [b'{"A": 1}', '{"B":"你"}'.encode(), b"{}"]


def test_an_event_cut_off_is_an_error() -> None:
    with pytest.raises(ServerError, match="broke off inside an event"):
        list(wire.events([b'data: {"A": 1}\n\ndata: {"B"']))


def test_a_long_event_in_small_pieces_is_read_in_linear_time() -> None:
    event = b"data: " + b"1" * 3_000_000 + b"\n\n"
    pieces = (event[i : i + 1000] for i in range(0, len(event), 1000))
    assert len(next(wire.events(pieces))) == 3_000_000


@pytest.mark.parametrize(
    "array",
    [
        np.array([["grün".encode(), b""]], np.object_),
        np.array([[1.5, -2.0]], np.float32),
        np.array([[2**62]], np.int64),
        np.zeros((1, 0), np.float32),
    ],
)
def test_there_and_back(array: np.ndarray) -> None:
    data, kind = wire.to_bytes(array), wire.datatype_of(array)
    again = wire.from_bytes(data, kind, array.shape)
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype


def test_an_unknown_datatype() -> None:
    with pytest.raises(ServerError, match="'FP4', which is not known"):
        wire.from_bytes(b"", "FP4", (0,))


def test_generate_sends_plain_json() -> None:
    inputs = {
        "TEXT": np.array([["你".encode()]], np.object_),
        "SPEED": np.array([[0.1]], np.float32),
        "REFERENCE_AUDIO": np.array([[0.5]], np.float32)[:, :1].repeat(2, axis=1),
    }
    request = Request("m", inputs, (), request_id="r", declined=("TIMES",))
    values = json.loads(wire.generate_body(request))
    assert values["TIMES"] is False, "generate gives all outputs but those that are declined"
    assert values["id"] == "r"
    assert values["TEXT"] == "你"
    assert np.float32(values["SPEED"]) == np.float32(0.1)
    assert values["REFERENCE_AUDIO"] == [0.5, 0.5]


def test_answers_of_generate() -> None:
    tensors = wire.generate_answer(b'{"model_name":"m","AUDIO":[0.5,1],"SAMPLE_RATE":8000}')
    assert set(tensors) == {"AUDIO", "SAMPLE_RATE"}
    assert tensors["AUDIO"].tolist() == [[0.5, 1.0]]
    assert tensors["SAMPLE_RATE"].tolist() == [[8000]]
    with pytest.raises(ServerError, match="the stream broke off: a b"):
        wire.generate_answer(b'{"error":"a\\n b"}')
    with pytest.raises(ServerError, match="not a JSON object"):
        wire.generate_answer(b"[1]")


def test_answers_of_infer_without_a_binary_part() -> None:
    body = b'{"outputs":[{"name":"A","datatype":"INT32","shape":[1,2],"data":[1,2]}]}'
    assert wire.infer_answer(body, None)["A"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"x"}', "x"),
        (b'data: {"error":"x"}\n\n', "x"),
        (b"<html>502</html>", ""),
        (b"", ""),
    ],
)
def test_messages_of_errors(body: bytes, message: str) -> None:
    assert wire.error_message(body) == message


def test_numbers_that_json_does_not_know() -> None:
    wave = np.array([[0.0, np.nan]], np.float32)
    with pytest.raises(InvalidRequest, match="REFERENCE_AUDIO: got values that are not finite"):
        wire.generate_body(Request("m", {"REFERENCE_AUDIO": wave}, ()))


@pytest.mark.parametrize(
    "answer",
    [
        b'{"outputs": 3}',
        b'{"outputs": [3]}',
        b'{"outputs": [{"name": "X"}]}',
        b'{"outputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1]}]}',
        b'{"outputs": [{"name": "X", "datatype": "FP32", "shape": [1], "data": ["a"]}]}',
    ],
)
def test_an_answer_that_is_not_as_the_protocol_has_it(answer: bytes) -> None:
    with pytest.raises(ServerError, match="not as the protocol has it"):
        wire.infer_answer(answer, None)
