"""The adapter between Triton's objects and ours, with a stand-in for what the stub brings."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from gsv.engine.gpt.guard import Attempt, Outcome
from gsv.engine.gpt.judge import Signal, Verdict
from gsv.errors import Cancelled, ConfigurationError, InvalidRequest, Unreachable
from gsv.serving.backend.call_board import BoardReader, CallBoard, owner_of
from gsv.stages.base import Place, Settings
from gsv.stages.calls import SequenceStep, StageCall
from gsv.stages.messages import MoreTokens, SemanticResult, WaveRequest, WaveResult
from gsv.stages.sentence_report import GuardCounts

REPOSITORY = Path(__file__).parent.parent.parent / "model_repository"
OURS = "gsv.serving.backend."


@dataclasses.dataclass
class Tensor:
    """A tensor as it is sent."""

    name: str
    array: np.ndarray

    made = 0

    def __post_init__(self) -> None:
        Tensor.made += 1


@dataclasses.dataclass
class InferenceResponse:
    """A response as it is sent."""

    output_tensors: list[Tensor]


@dataclasses.dataclass
class Spoken:
    """A stage's result."""

    audio: np.ndarray
    sample_rate: int


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``gsv.serving.backend.adapter`` upon the stand-in, and gone afterwards."""
    stand_in = ModuleType("triton_python_backend_utils")
    stand_in.Tensor = Tensor  # type: ignore[attr-defined]
    stand_in.InferenceResponse = InferenceResponse  # type: ignore[attr-defined]
    numpy_types = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
    stand_in.triton_string_to_numpy = numpy_types.get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    before = set(sys.modules)
    package_log = logging.getLogger("gsv")
    was = list(package_log.handlers), package_log.level, package_log.propagate
    module = importlib.import_module(OURS + "adapter")
    gc.enable()  # a model's process does so when it has imported everything
    yield module
    gc.unfreeze()
    # A model that a test doesn't finalize leaves its handler.
    package_log.handlers[:], package_log.level, package_log.propagate = was
    for name in {n for n in sys.modules if n.startswith(OURS)} - before:
        del sys.modules[name]


def part(name: str) -> Any:
    """A module beside the adapter, upon the same stand-in."""
    return sys.modules[OURS + name]


def test_outputs_that_nobody_asked_for_are_not_made(adapter: Any) -> None:
    wire = part("wire").read_wire(
        [
            {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "SAMPLE_RATE", "data_type": "TYPE_INT32", "dims": [1]},
        ]
    )
    result = Spoken(np.zeros(3), 48_000)
    Tensor.made = 0
    (rate,) = part("request").write_response(result, wire, ["SAMPLE_RATE"]).output_tensors
    assert Tensor.made == 1
    assert (rate.name, rate.array.tolist(), rate.array.dtype) == ("SAMPLE_RATE", [[48_000]], "i4")
    both = part("request").write_response(result, wire, {"AUDIO", "SAMPLE_RATE"}).output_tensors
    assert [tensor.array.shape for tensor in both] == [(1, 3), (1, 1)]


def test_what_the_package_logs_goes_to_the_servers_log(adapter: Any) -> None:
    written: list[tuple[str, str]] = []
    server_log = SimpleNamespace(
        log_info=lambda text: written.append(("info", text)),
        log_warn=lambda text: written.append(("warn", text)),
        log_error=lambda text: written.append(("error", text)),
    )
    adapter.pb_utils.Logger = server_log
    for level in (logging.INFO, logging.WARNING, logging.CRITICAL):
        record = logging.LogRecord("gsv.x", level, "", 1, "%d slots", (3,), None)
        part("log_handler").TritonLogHandler("vocoder").emit(record)
    text = "vocoder: 3 slots"
    assert written == [("info", text), ("warn", text), ("error", text)]


class OneStage:
    """A stage that fails once all GPU work does."""

    request_type = staticmethod(lambda: None)

    def run_batch(self, requests: list[Any]) -> list[Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_batch_that_breaks_the_gpu_ends_the_process(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException] = []
    monkeypatch.setattr(adapter, "end_if_fatal", ended.append)
    model = adapter.BatchedModel()
    model._stage = OneStage()
    (answer,) = model._run([object()])
    assert ended == [answer]


class Call:
    """A call to another model, as it is made; it is answered with what it asks for."""

    made: list[dict[str, Any]]

    def __init__(self, **arguments: Any) -> None:
        Call.made.append(arguments)
        self._names = arguments["requested_output_names"]

    def exec(self) -> Any:
        tensors = [
            SimpleNamespace(name=lambda n=n: n, as_numpy=lambda: np.ones((1, 3), np.int32))
            for n in self._names
        ]
        return SimpleNamespace(has_error=lambda: False, output_tensors=lambda: tensors)


def calling_client(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: type[Call] = Call) -> Any:
    """A BlsClient whose requests are of that kind, and whose board lies in a folder of its own."""
    bls = importlib.import_module(OURS + "bls_client")
    monkeypatch.setattr(bls, "CallBoard", lambda: CallBoard(folder))
    bls.pb_utils.InferenceRequest, Call.made = kind, []
    bls.pb_utils.TRITONSERVER_MEMORY_CPU = "cpu"
    bls.pb_utils.PreferredMemory = lambda kind, device: (kind, device)
    return bls.BlsClient(REPOSITORY)


def test_a_call_between_models_is_typed_by_the_configuration(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = calling_client(monkeypatch, tmp_path)
    token = client.token("mine")
    mel = np.zeros((100, 3), np.float32)
    asked = WaveRequest(mel=mel, mel_counts=np.array([3], np.int32))
    answer = client(StageCall("vocoder", asked, WaveResult), token)
    assert answer.audio.tolist() == [1, 1, 1]
    assert answer.sample_rate == 1
    (made,) = Call.made
    sent = {tensor.name: tensor.array for tensor in made["inputs"]}
    assert sent["MEL"].shape == (1, 100, 3)
    assert (sent["SAMPLE_RATE"].dtype, sent["SAMPLE_RATE"].shape) == (np.int32, (1, 1))
    assert "PAUSES" not in sent, "what is None is left out"
    assert made["preferred_memory"] == ("cpu", 0), "a GPU's memory would open a CUDA context"
    owner = f"gsv!{os.getppid()}!{os.getpid()}!{token.slot}!{token.number}"
    assert owner_of(made["request_id"]) == owner
    client.close()


def test_a_sequence_goes_into_the_requests_flags(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = calling_client(monkeypatch, tmp_path)
    for start, end in ((True, False), (False, False), (False, True), (True, True)):
        step = SequenceStep(7, start, end)
        client(StageCall("semantic_gpt", MoreTokens(5), SemanticResult, step), client.token(""))
    assert [call["flags"] for call in Call.made] == [1, 0, 2, 3]
    assert {call["correlation_id"] for call in Call.made} == {7}
    client.close()


@pytest.mark.parametrize(
    ("option", "parameters", "seconds"),
    [
        (0, "", 0.0),
        (1_500_000, "", 1.5),
        (0, '{"timeout": 250000}', 0.25),
        (0, '{"timeout": "7"}', 7e-6),
    ],
)
def test_a_timeout_is_an_option_or_a_parameter(
    adapter: Any, option: int, parameters: str, seconds: float
) -> None:
    request = SimpleNamespace(timeout=lambda: option, parameters=lambda: parameters)
    assert part("request").timeout_of(request) == seconds
    part("request").check_parameters(request, [])


@pytest.mark.parametrize(
    "given",
    ['"soon"', "-1", "null", f'"{"9" * 400}"', f'"{"9" * 5_000}"', f'"{"x" * 5_000}"',
     "Infinity", "NaN", "1e400"],
    ids=lambda given: given[:12],
)  # fmt: skip
def test_a_timeout_that_is_none_is_refused(adapter: Any, given: str) -> None:
    request = SimpleNamespace(timeout=lambda: 0, parameters=lambda: f'{{"timeout": {given}}}')
    with pytest.raises(InvalidRequest, match="timeout: got .*; allowed: microseconds") as caught:
        part("request").timeout_of(request)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("why", ["died", "called off"])
def test_a_call_that_never_comes_back_is_given_up(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str
) -> None:
    bls = importlib.import_module(OURS + "bls_client")
    board = importlib.import_module(OURS + "call_board")
    for name in ("LOOK_SECONDS", "GRACE_SECONDS", "CANCELLED_SECONDS"):
        monkeypatch.setattr(bls, name, 0.02)
    dead: set[int] = set()
    monkeypatch.setattr(board, "lives", lambda process: process not in dead)
    ever = threading.Event()

    class Hanging(Call):
        def exec(self) -> Any:
            BoardReader(tmp_path).take(Call.made[-1]["request_id"])
            if why == "died":
                dead.add(os.getpid())
            else:
                token.cancel()
            assert ever.wait(10)
            return super().exec()

    client = calling_client(monkeypatch, tmp_path, Hanging)
    token = client.token("mine")
    step = SequenceStep(7, start=True, end=True)
    with pytest.raises(Unreachable if why == "died" else Cancelled):
        client(StageCall("semantic_gpt", MoreTokens(5), SemanticResult, step), token)
    ever.set()
    client.close()


@pytest.mark.parametrize(
    ("own", "parameters", "expected"),
    [("mine", "", "mine"), ("", '{"id": "mine"}', "mine"), ("", '{"id": 7}', "7"), ("", "", "")],
)
def test_an_id_is_an_option_or_a_parameter(
    adapter: Any, own: str, parameters: str, expected: str
) -> None:
    request = SimpleNamespace(request_id=lambda: own, parameters=lambda: parameters)
    assert adapter.request_id(request) == expected
    part("request").check_parameters(request, [])


def not_utf8(*_: Any) -> str:
    return b"\xff".decode("utf-8")


def test_an_id_or_parameters_that_are_not_utf8_hurt_nobody(adapter: Any) -> None:
    """Triton hands on whatever bytes a caller has sent."""
    plain = SimpleNamespace(request_id=lambda: "", parameters=lambda: "")
    for request in (
        SimpleNamespace(request_id=not_utf8, parameters=lambda: ""),
        SimpleNamespace(request_id=lambda: "", parameters=not_utf8),
    ):
        assert adapter.request_id(request) == ""
    with pytest.raises(InvalidRequest, match="request parameters: got bytes that are not UTF-8"):
        part("request").check_parameters(request, [])
    part("request").check_parameters(plain, [])


@pytest.mark.parametrize("begun", [True, False])
def test_an_error_says_whether_the_dead_process_had_begun(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begun: bool
) -> None:
    board = importlib.import_module(OURS + "call_board")
    monkeypatch.setattr(board, "lives", lambda process: False)

    class Refused(Call):
        def exec(self) -> Any:
            if begun:
                BoardReader(tmp_path).take(Call.made[-1]["request_id"])
            error = SimpleNamespace(message=lambda: "Stub process 'm_0_0' is not healthy.")
            return SimpleNamespace(has_error=lambda: True, error=lambda: error)

    client = calling_client(monkeypatch, tmp_path, Refused)
    step = SequenceStep(7, start=True, end=True)
    with pytest.raises(Unreachable) as caught:
        client(StageCall("semantic_gpt", MoreTokens(5), SemanticResult, step), client.token(""))
    assert caught.value.begun is begun
    client.close()


def test_names_that_nobody_reads_are_refused_with_the_nearest(adapter: Any) -> None:
    wire = part("wire").read_wire(
        [{"name": name, "data_type": "TYPE_STRING", "dims": [1]} for name in ("TEXT", "SPEED")]
    )
    given = SimpleNamespace(parameters=lambda: '{"sped": 1}')
    with pytest.raises(InvalidRequest, match="sped: no such .*nearest is SPEED"):
        part("request").check_parameters(given, wire)
    part("request").check_parameters(SimpleNamespace(parameters=lambda: ""), wire)
    declined = SimpleNamespace(parameters=lambda: '{"TIMES": false, "report": false}')
    part("request").check_parameters(declined, wire, {"TIMES", "REPORT"})
    with pytest.raises(InvalidRequest, match="TIMES: no such"):
        part("request").check_parameters(declined, wire)
    named = SimpleNamespace(inputs=lambda: [SimpleNamespace(name=lambda: "VOICES")])
    with pytest.raises(InvalidRequest, match="VOICES: no such input; allowed: TEXT, SPEED"):
        part("request").read_request(named, wire)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("x" * 1_000_000, "'xxx"),
        ("TEXT" + "x" * 90, "TEXTxxx"),
        ("SPEDD" + "\u2028" * 1_000, "'SPEDD"),
        ("ẞ" * 1_000_000, "'ẞẞ"),
        ("sp\ned", "'sp\\ned'"),
        ("", "''"),
    ],
    ids=lambda text: text[:5],
)
def test_a_long_name_is_neither_compared_nor_echoed_whole(
    adapter: Any, name: str, named: str
) -> None:
    wire = part("wire").read_wire(
        [{"name": name, "data_type": "TYPE_STRING", "dims": [1]} for name in ("TEXT", "SPEED")]
    )
    given = SimpleNamespace(parameters=lambda: json.dumps({name: 1}))
    start = time.thread_time()
    with pytest.raises(InvalidRequest) as caught:
        part("request").check_parameters(given, wire)
    assert time.thread_time() - start < 0.3  # 0.3 s for a million letters when all were compared
    assert str(caught.value).startswith(named)
    assert ": no such input or request parameter" in str(caught.value)
    assert len(str(caught.value)) < 400


class QuietStage:
    """A stage that only notes where it was put."""

    settings_type = Settings
    request_type = WaveRequest
    result_type = WaveResult
    places: ClassVar[list[Place]] = []

    def __init__(self, place: Place, settings: Settings) -> None:
        QuietStage.places.append(place)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


ARGUMENTS = {
    "model_name": "vocoder",
    "model_instance_name": "vocoder_0_0",
    "model_repository": "/models/vocoder",
    "model_version": "1",
    "model_instance_device_id": "3",
}


def quiet_model(adapter: Any, kind: str = "CPU", threads: str = "0") -> Any:
    """A loaded model around a :class:`QuietStage`, to be finalized."""
    config = {"input": [], "output": [], "parameters": {"threads": {"string_value": threads}}}
    model = type("Model", (adapter.BatchedModel,), {"stage": QuietStage})()
    model.initialize(ARGUMENTS | {"model_config": json.dumps(config), "model_instance_kind": kind})
    return model


@pytest.mark.parametrize("network", [True, False])
def test_only_networks_keep_freed_memory(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    """Threads of a model without one would each keep up to 64 MiB for nothing."""
    called: list[str] = []
    monkeypatch.setattr(part("model"), "verify_manifest", lambda folder: None)
    monkeypatch.setattr(part("model"), "RequestMetrics", lambda name, instance: None)
    monkeypatch.setattr(part("model"), "keep_freed_memory", lambda: called.append("keeps"))
    monkeypatch.setattr(
        part("model"), "_set_up_torch", lambda device, threads: called.append("torch")
    )
    if network:
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    quiet_model(adapter)._close()
    assert called == (["torch", "keeps"] if network else [])


@pytest.mark.parametrize(
    ("kind", "chosen", "device", "threads"),
    [
        ("GPU", "0", "cuda:3", [2]),
        ("GPU", "5", "cuda:3", [5]),
        ("CPU", "0", "cpu", []),
        ("CPU", "5", "cpu", [5]),
    ],
)
def test_a_model_is_put_on_its_device(
    adapter: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    chosen: str,
    device: str,
    threads: list[int],
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(part("model"), "verify_manifest", lambda folder: None)
    monkeypatch.setattr(part("model"), "RequestMetrics", lambda name, instance: None)
    monkeypatch.setattr(part("model"), "keep_freed_memory", lambda: None)
    monkeypatch.setattr("gsv.device.prepare", called.append)
    monkeypatch.setattr("gsv.device.end_on_fatal", lambda: called.append("ends on fatal errors"))
    monkeypatch.setattr("torch.set_num_threads", called.append)
    model = quiet_model(adapter, kind, chosen)
    try:
        assert called == [device, "ends on fatal errors", *threads]
        assert QuietStage.places[-1].device == device
    finally:
        model.finalize()
    assert model._log not in logging.getLogger("gsv").handlers


def test_answers_leave_though_the_metrics_can_not(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def refuse() -> None:
        raise RuntimeError("/dev/shm is full")

    metrics = SimpleNamespace(begin=lambda count: None, flush=refuse)
    monkeypatch.setattr(part("model"), "verify_manifest", lambda folder: None)
    monkeypatch.setattr(part("model"), "RequestMetrics", lambda name, instance: metrics)
    monkeypatch.setattr(part("model"), "_set_up_torch", lambda device, threads: None)
    model = quiet_model(adapter)
    adapter.pb_utils.Logger = SimpleNamespace(log_error=written.append)
    try:
        assert model.execute([]) == []
        assert model.execute([]) == []
    finally:
        model._close()
    assert written == ["vocoder: metrics: RuntimeError: /dev/shm is full"]


class OwnMetrics:
    """What tells the server of its end, and so must not outlive the process's link to it."""

    living = 0

    def __init__(self, *names: str) -> None:
        OwnMetrics.living += 1

    def __del__(self) -> None:
        OwnMetrics.living -= 1


def test_a_model_that_fails_to_load_leaves_no_metrics(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("model"), "verify_manifest", lambda folder: None)
    monkeypatch.setattr(part("model"), "RequestMetrics", OwnMetrics)
    config = {"input": [], "output": [], "parameters": {"sped": {"string_value": "1"}}}
    model = type("Model", (adapter.BatchedModel,), {"stage": QuietStage})()
    arguments = ARGUMENTS | {"model_config": json.dumps(config), "model_instance_kind": "CPU"}
    with pytest.raises(ConfigurationError, match="sped"):
        model.initialize(arguments)
    assert OwnMetrics.living == 0
    assert vars(model) == {}


def test_a_model_that_can_not_be_closed_ends_all_the_same(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    adapter.pb_utils.Logger = SimpleNamespace(log_error=written.append)
    monkeypatch.setattr(part("model"), "leave", lambda: written.append("left"))
    adapter.BatchedModel().finalize()  # it was never loaded
    assert written[0].startswith("model not closed: AttributeError")
    assert written[1:] == ["left"]


class Series:
    """A metric of the server."""

    told: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self._key = (name, *(f"{key}={value}" for key, value in labels.items()))

    def increment(self, value: float) -> None:
        assert value > 0
        Series.told[self._key] = Series.told.get(self._key, 0) + value


class MetricFamily:
    """A family of them."""

    COUNTER = "counter"

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert kind == self.COUNTER
        assert description
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Series:
        return Series(self._name, labels)


def test_what_the_guard_has_done_is_told_once(adapter: Any) -> None:
    adapter.pb_utils.MetricFamily = MetricFamily
    Series.told.clear()
    counts = GuardCounts()
    families = part("metrics").GuardFamilies("semantic_gpt", "semantic_gpt_0_1")

    def attempt(*signals: Signal) -> Attempt:
        return Attempt(1, 0, np.ones(9, np.int32), Verdict(signals, 9, 9, 1, 0, 0, 0))

    good = Outcome((attempt(Signal.LOOP), attempt()), kept=1, tokens=9)
    bad = Outcome((attempt(Signal.LOOP), attempt(Signal.SILENCE)), kept=1, tokens=9)
    counts.add(good, {"zh": 5})
    families.flush(counts)
    families.flush(counts)
    counts.add(bad, {"zh": 5, "en": 9})
    counts.add(bad, {"zh": 9})
    families.flush(counts)
    beside = ("model=semantic_gpt", "model_instance=semantic_gpt_0_1")
    assert Series.told == {
        ("gsv_guard_sentences_total", *beside, "language=zh"): 2,
        ("gsv_guard_sentences_total", *beside, "language=en"): 1,
        ("gsv_guard_retries_total", *beside, "language=zh", "cause=loop"): 2,
        ("gsv_guard_retries_total", *beside, "language=en", "cause=loop"): 1,
        ("gsv_guard_bad_sentences_total", *beside, "language=zh", "cause=silence"): 1,
        ("gsv_guard_bad_sentences_total", *beside, "language=en", "cause=silence"): 1,
    }


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ("", {"AUDIO", "TIMES"}),
        ('{"TIMES": true}', {"AUDIO", "TIMES"}),
        ('{"TIMES": false, "AUDIO": false}', {"AUDIO"}),
        ('{"times": false}', {"AUDIO"}),
    ],
)
def test_optional_outputs_may_be_declined(adapter: Any, parameters: str, wanted: set[str]) -> None:
    request = SimpleNamespace(
        requested_output_names=lambda: ["AUDIO", "TIMES"], parameters=lambda: parameters
    )
    assert part("request").wanted_outputs(request, {"TIMES"}) == wanted
    assert part("request").wanted_outputs(request, set()) == {"AUDIO", "TIMES"}
    request.parameters = lambda: '{"TIMES": 1}'
    with pytest.raises(InvalidRequest, match="TIMES: got 1; allowed: true or false"):
        part("request").wanted_outputs(request, {"TIMES"})


def test_a_field_that_a_call_also_wants_is_asked_for(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = calling_client(monkeypatch, tmp_path)
    plain = StageCall("semantic_gpt", MoreTokens(5), SemanticResult, SequenceStep(7, True, True))
    client(plain, client.token(""))
    client(dataclasses.replace(plain, also=("attempt",)), client.token(""))
    asked = [call["requested_output_names"] for call in Call.made]
    assert asked == [["TOKENS", "TOKEN_COUNTS", "IS_LAST"], [*asked[0], "ATTEMPT"]]
    client.close()


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_span_begins_below_tritons_or_the_public_models(adapter: Any) -> None:
    begun: list[tuple[str, str]] = []
    model = adapter.StreamingModel()
    model._tracer = SimpleNamespace(begin=lambda parent, own: begun.append((parent, own)))
    context = json.dumps({"traceparent": PARENT})
    trace = SimpleNamespace(get_context=lambda: context)
    outside = SimpleNamespace(request_id=lambda: "mine", trace=lambda: trace)
    inside = SimpleNamespace(request_id=lambda: f"gsv!1!2!3!4!5!{PARENT}!mine")
    untraced = SimpleNamespace(request_id=lambda: "gsv!1!2!3!4!5!mine")
    model.tagged = False
    model.begin_span(outside)
    model.tagged = True
    model.begin_span(inside)
    model.begin_span(untraced)
    assert begun == [(PARENT, "mine"), (PARENT, "mine"), ("", "mine")]
    model._tracer = None  # nobody collects: Triton is not even asked
    assert model.begin_span(SimpleNamespace()) is None


@pytest.mark.parametrize(("wanted", "lines"), [(False, 0), (True, 1)])
def test_an_ended_request_is_logged_where_that_is_wanted(
    adapter: Any, wanted: bool, lines: int
) -> None:
    written: list[str] = []
    ended: list[tuple[str, BaseException | None]] = []
    adapter.pb_utils.Logger = SimpleNamespace(log_info=written.append)
    model = adapter.StreamingModel()
    model._name, model._logs_requests = "vocoder", wanted
    model.metrics = SimpleNamespace(observe=lambda outcome, seconds: None)
    span = SimpleNamespace(end=lambda outcome, error: ended.append((outcome, error)))
    error = InvalidRequest("no")
    model.ended(f"gsv!1!2!3!4!5!{PARENT}!mine", span, time.monotonic(), error)
    assert ended == [("refused", error)]
    assert len(written) == lines
    assert all("vocoder: request id='mine' refused after 0.0" in line for line in written)


FULL = "Failed to increase the shared memory pool size"


class Sender:
    """Triton's sender, which refuses the first sends, as with /dev/shm full.

    Triton's own refuses all that follow a last response that it refused (24.06 to 26.07).
    """

    def __init__(self, refused: int = 0) -> None:
        self.refused, self.left = refused, False
        self.sent: list[tuple[Any, int]] = []

    def is_cancelled(self) -> bool:
        return self.left

    def send(self, response: Any = None, flags: int = 0) -> None:
        if self.refused:
            self.refused -= 1
            raise RuntimeError(FULL)
        self.sent.append((response, flags))


class Watched:
    """A streaming model whose watch runs, without a server; ``log`` is what it has logged."""

    def __init__(self, adapter: Any) -> None:
        self.log: list[str] = []
        adapter.pb_utils.Logger = SimpleNamespace(log_error=self.log.append)
        adapter.pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
        adapter.pb_utils.InferenceResponse = lambda error: error
        adapter.pb_utils.TritonError = lambda message, *code: message
        for code in ("INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED"):
            setattr(adapter.pb_utils.TritonError, code, code)
        self.model = model = adapter.StreamingModel()
        model._name, model.tagged, model._logs_requests = "gpt_sovits_v4_stream", False, False
        model._tracer = model._timings = model._voice_metrics = model._voice_families = None
        model._guard_families = model._load = None
        model.wanted = lambda request: frozenset()
        model.calls = SimpleNamespace(watch=lambda own_id: None, take=lambda own_id: None)
        self.under_way = 0
        model.metrics = SimpleNamespace(
            begin=lambda: self.count(1), observe=lambda *_: self.count(-1), flush=lambda: None
        )
        model._stage = SimpleNamespace(load=lambda: None, sweep=lambda: None)
        model._callers_file = SimpleNamespace(write=lambda callers: False)
        self.beats = True
        model._heart = SimpleNamespace(stop=lambda: setattr(self, "beats", False))
        model._callers, model._changes, model._changed = set(), 0, threading.Condition()
        model._closing = False

    def count(self, more: int) -> None:
        self.under_way += more

    def caller(self, sender: Sender, timeout: float = 0.0, own_id: str = "mine") -> Any:
        """Somebody who waits; ``cancelled`` is set when the work is called off."""
        request = SimpleNamespace(
            request_id=lambda: own_id, parameters=lambda: "", get_response_sender=lambda: sender
        )
        caller = part("caller").Caller(self.model, request, self.model._forget)
        caller.timeout, caller.cancelled = timeout, threading.Event()
        caller.cancel = caller.cancelled.set
        with self.model._changed:
            self.model._callers.add(caller)
            self.model._changes += 1
            self.model._changed.notify()
        return caller

    def is_idle(self) -> bool:
        return not self.under_way and not self.model._callers


@pytest.fixture
def watched(adapter: Any) -> Iterator[Watched]:
    """A model whose watch is ended afterwards."""
    watched = Watched(adapter)
    watch = threading.Thread(target=watched.model._watch_callers, daemon=True)
    watch.start()
    yield watched
    with watched.model._changed:
        watched.model._closing = True
        watched.model._changed.notify()
    watch.join(10)
    assert not watch.is_alive()
    assert watched.beats, "it has ended because it was told to"


def becomes(true: Callable[[], bool]) -> bool:
    """Whether that is so within ten seconds."""
    limit = time.monotonic() + 10
    while not (so := true()) and time.monotonic() < limit:
        time.sleep(0.01)
    return so


def test_whose_time_ends_in_the_line_is_told_so(watched: Watched) -> None:
    """Who is taken out of a line is answered as one that has left, unless it has an answer."""
    sender = Sender()
    caller = watched.caller(sender, timeout=0.05)
    caller.cancel = lambda: caller.fail(Cancelled("the caller went away"))
    assert becomes(watched.is_idle)
    assert ["the request's 0.05 s are over" in str(error) for error, _ in sender.sent] == [True]


@pytest.mark.parametrize("refused", range(4))
@pytest.mark.parametrize("way", ["send", "finish", "fail"])
def test_a_caller_is_ended_whatever_triton_takes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, way: str, refused: int
) -> None:
    monkeypatch.setattr(part("caller"), "write_response", lambda *_: "spoken")
    watched.model.outputs = []
    sender = Sender(refused)
    caller = watched.caller(sender)
    if way == "send":
        caller.send(object(), final=True)
    elif way == "finish":
        caller.finish()
    else:
        caller.fail(Cancelled("no"))
    answer = {"send": "spoken", "finish": None, "fail": "no"}[way]
    excuse = "no" if way == "fail" else f"RuntimeError: {FULL}"
    assert sender.sent == [[(answer, 1)], [(excuse, 1)], [(None, 1)], []][refused]
    assert watched.is_idle()
    assert len(watched.log) == bool(refused)
    assert all("id='mine'" in line for line in watched.log)
    assert ("gets no answer" in "".join(watched.log)) == (refused == 3)
    caller.fail(Cancelled("too late"))
    assert len(sender.sent) == (refused < 3)


def test_a_fault_of_ours_reaches_a_caller_without_an_id(watched: Watched) -> None:
    sender = Sender()
    caller = watched.caller(sender, own_id="")
    caller.fail(ValueError("ours"))
    assert sender.sent == [("ValueError: ours", 1)]
    assert watched.log == ["gpt_sovits_v4_stream: request id='' failed: ValueError: ours"]
    assert watched.is_idle()


def test_an_error_that_can_not_be_made_ends_its_caller_all_the_same(
    adapter: Any, watched: Watched
) -> None:
    def full(error: Any) -> Any:
        raise RuntimeError(FULL)

    adapter.pb_utils.InferenceResponse = full
    sender = Sender()
    watched.caller(sender).fail(Cancelled("no"))
    assert sender.sent == [(None, 1)]
    assert watched.is_idle()


def test_a_chunk_that_can_not_be_sent_is_the_stages_to_answer(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("caller"), "write_response", lambda *_: "chunk")
    watched.model.outputs = []
    sender = Sender(refused=1)
    caller = watched.caller(sender)
    with pytest.raises(RuntimeError, match=FULL):
        caller.send(object(), final=False)
    assert watched.under_way == 1
    caller.fail(Cancelled("no"))
    assert sender.sent == [("no", 1)]
    assert watched.is_idle()


def test_a_caller_whose_metrics_fail_is_let_go(watched: Watched) -> None:
    def full(*outcome: Any) -> None:
        raise RuntimeError("no memory")

    watched.model.metrics.observe = full
    caller = watched.caller(Sender())
    with pytest.raises(RuntimeError, match="no memory"):
        caller.finish()
    assert not watched.model._callers


def test_the_watch_outlives_a_caller_that_nothing_can_be_sent_to(watched: Watched) -> None:
    watched.caller(Sender(refused=9), timeout=0.01)
    assert becomes(watched.is_idle)
    other = Sender()
    caller = watched.caller(other)
    other.left = True
    assert caller.cancelled.wait(10)


@pytest.mark.parametrize("broken", ["metrics", "callers file", "caller", "sweep", "load"])
def test_the_watch_goes_on_whatever_fails(watched: Watched, broken: str) -> None:
    failures = []

    def fail(*_: Any) -> None:
        failures.append(broken)
        raise RuntimeError("no memory")

    model, odd, other = watched.model, Sender(), Sender()
    owners: dict[str, tuple[Any, str]] = {
        "metrics": (model.metrics, "flush"),
        "callers file": (model._callers_file, "write"),
        "caller": (odd, "is_cancelled"),
        "sweep": (model._stage, "sweep"),
        "load": (model._stage, "load"),
    }
    setattr(*owners[broken], fail)
    callers = [watched.caller(odd), watched.caller(other)]
    assert becomes(lambda: len(failures) > 2)
    other.left = True
    assert callers[1].cancelled.wait(10)
    assert becomes(lambda: len(watched.log) == 1)
    assert "RuntimeError: no memory" in watched.log[0]
    for caller in callers:
        caller.finish()


def test_what_goes_on_failing_is_logged_now_and_then(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    adapter.pb_utils.Logger = SimpleNamespace(log_error=written.append)
    now = 0.0
    parts = adapter.Parts("vocoder", clock=lambda: now)
    for _ in range(3):
        assert parts.run("sweep", lambda: 1 // 0) is None
    assert written == ["vocoder: sweep: ZeroDivisionError: integer division or modulo by zero"]
    parts.run("load", lambda: 1 // 0)
    assert len(written) == 2, "another kind"
    now += adapter.LOG_AGAIN_SECONDS
    parts.run("sweep", lambda: 1 // 0)
    assert len(written) == 3
    assert parts.run("load", lambda given: given + 1, 2) == 3


def test_a_watch_that_ends_by_itself_stops_the_heartbeat(adapter: Any) -> None:
    watched = Watched(adapter)

    def end() -> None:
        raise SystemExit

    watched.model._flush = end
    watched.caller(Sender())
    with pytest.raises(SystemExit):
        watched.model._watch_callers()
    assert not watched.beats


def test_a_stopped_heartbeat_leaves_its_file_untouched(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heartbeat = part("heartbeat")
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    heart = heartbeat.Heartbeat(f"{tmp_path}/x-").start()
    (file,) = tmp_path.iterdir()

    def is_touched(seconds: float) -> bool:
        os.utime(file, (1.0, 1.0))
        limit = time.monotonic() + seconds
        while file.stat().st_mtime == 1.0 and time.monotonic() < limit:
            time.sleep(0.01)
        return file.stat().st_mtime != 1.0

    assert is_touched(10)
    heart.stop()
    time.sleep(0.1)  # a beat may have been under way
    assert not is_touched(0.2)
    heart.close()
    assert not file.exists()


def test_the_callers_file_tells_soon_that_the_last_one_has_left(
    watched: Watched, tmp_path: Path
) -> None:
    watched.model._callers_file = part("callers_file").CallersFile(f"{tmp_path}/x-")
    caller = watched.caller(Sender())

    def told() -> int:
        return sum(len(json.loads(file.read_text())) for file in tmp_path.glob("x-callers-*[0-9]"))

    assert becomes(lambda: told() == 1)
    caller.finish()  # too soon after the last write
    assert becomes(lambda: told() == 0)
