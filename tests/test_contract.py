"""``config.pbtxt`` declares the wire once; the stages, the client and the README agree with it."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from gsv.offline import STAGES
from gsv.serving.backend.wire import read_config as read_wires
from gsv.stages.messages import PipelineResult, SpeechRequest
from gsv.stages.synthesis import whole_answer

ROOT = Path(__file__).parent.parent
REPOSITORY = ROOT / "model_repository"
PUBLIC = ("gpt_sovits_v4", "gpt_sovits_v4_stream")
PIPELINE = "gpt_sovits_v4_pipeline"
# Fields of requests that are not tensors: Triton says them beside the request.
BESIDE = {"OWNER", "MADE_AGAIN", "REQUEST_ID", "SEQUENCE", "END", "OUTPUTS"}


def read_config(path: Path) -> Any:
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


CONFIGS = {path.parent.name: read_config(path) for path in REPOSITORY.glob("*/config.pbtxt")}
PYTHON_MODELS = {name: config for name, config in CONFIGS.items() if config.backend == "python"}


def stage_of(name: str) -> Any:
    """The stage class that a model.py names."""
    source = (REPOSITORY / name / "1" / "model.py").read_text(encoding="utf-8")
    found = re.search(r"from (gsv\.stages\.\w+) import (\w+)", source)
    assert found, name
    return getattr(importlib.import_module(found[1]), found[2])


def test_there_are_models() -> None:
    assert set(STAGES) <= set(PYTHON_MODELS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_config_is_complete_and_plain(name: str) -> None:
    path = REPOSITORY / name / "config.pbtxt"
    assert "${" not in path.read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith("#"), "say first what the model is for"
    config = CONFIGS[name]
    assert config.name == name
    assert config.max_batch_size > 0
    assert (REPOSITORY / name / "1").is_dir()


@pytest.mark.parametrize("name", sorted(PYTHON_MODELS))
def test_inputs_are_the_stage_request(name: str) -> None:
    fields = {f.name.upper(): f for f in dataclasses.fields(stage_of(name).request_type)}
    config = PYTHON_MODELS[name]
    assert {i.name for i in config.input} == set(fields) - BESIDE
    for tensor in config.input:
        has_default = fields[tensor.name].default is not dataclasses.MISSING
        # Later requests of a sequence leave out what the first one brought.
        assert tensor.optional == has_default or name == "semantic_gpt", tensor.name
        if -1 in tensor.dims:
            assert tensor.allow_ragged_batch, f"{tensor.name}: lengths differ between requests"


@pytest.mark.parametrize("name", sorted(PYTHON_MODELS))
def test_outputs_are_the_stage_result(name: str) -> None:
    fields = [f.name.upper() for f in dataclasses.fields(stage_of(name).result_type)]
    assert [o.name for o in PYTHON_MODELS[name].output] == fields


@pytest.mark.parametrize("name", sorted(PYTHON_MODELS))
def test_parameters_are_the_stage_settings(name: str) -> None:
    parameters = {
        key: value.string_value
        for key, value in PYTHON_MODELS[name].parameters.items()
        if key == key.lower()
    }
    settings = stage_of(name).settings_type
    parsed = settings.parse(parameters)
    unset = {f.name for f in dataclasses.fields(settings)} - set(parameters) - {"threads"}
    assert not unset, "every parameter stands in the config with its working default"
    assert parsed is not None


def test_one_tensor_name_has_one_type_and_shape() -> None:
    seen: dict[str, tuple[int, tuple[int, ...]]] = {}
    for name, config in CONFIGS.items():
        for tensor in [*config.input, *config.output]:
            shape = (tensor.data_type, tuple(tensor.dims))
            assert seen.setdefault(tensor.name, shape) == shape, f"{tensor.name} in {name}"


def fake_answer(kind: type[Any]) -> Any:
    """An answer whose every field can be told from all others."""
    return kind(**{field.name: _Tensor(field.name) for field in dataclasses.fields(kind)})


class _Tensor(np.ndarray):
    """An array that knows whose output it is."""

    def __new__(cls, name: str) -> _Tensor:
        made = np.zeros(1, np.int32).view(cls)
        made.origin = name.upper()  # type: ignore[attr-defined]
        return made


def test_the_ensemble_is_the_synthesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one order of the stages in Python, and the ensemble's, ask for the same."""
    for name in ("SemanticRequest", "MelRequest", "WaveRequest", "TextRequest", "ReferenceRequest"):
        kind = getattr(importlib.import_module("gsv.stages.messages"), name)
        monkeypatch.setattr(kind, "__post_init__", lambda self: None, raising=False)
    request = fake_answer(SpeechRequest)
    written: list[tuple[str, dict[str, str]]] = []
    calls = whole_answer(request)
    step = next(calls)
    while True:
        answers = []
        for call in step:
            fields = {
                f.name: getattr(call.request, f.name) for f in dataclasses.fields(call.request)
            }
            read = {n.upper(): v.origin for n, v in fields.items() if isinstance(v, _Tensor)}
            written.append((call.model, read))
            answers.append(fake_answer(call.answer))
        try:
            step = calls.send(tuple(answers))
        except StopIteration:
            break
    config = CONFIGS[PIPELINE]
    declared = [(s.model_name, dict(s.input_map)) for s in config.ensemble_scheduling.step]
    # The one difference: the ensemble hears the reference after the text, by the voice that was
    # read, since Triton never releases a request when one of two steps at once fails.
    for model, read in declared:
        if model == "reference_encoder":
            assert read["VOICE"] == "PINNED_VOICE"
            read["VOICE"] = "VOICE"
    assert written == declared


def test_the_ensemble_fits_its_steps() -> None:
    config = CONFIGS[PIPELINE]
    for step in config.ensemble_scheduling.step:
        known = CONFIGS[step.model_name]
        assert set(step.input_map) <= {i.name for i in known.input}
        assert {i.name for i in known.input if not i.optional} <= set(step.input_map)
        assert set(step.output_map) <= {o.name for o in known.output}
        assert all(key == value for key, value in step.output_map.items())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_calls_between_models_read_the_same_configuration(name: str) -> None:
    """The reader that stubs have, without protobuf, sees what protobuf sees."""
    wires = read_wires(REPOSITORY / name / "config.pbtxt")
    for ours, theirs in (
        (wires.inputs, CONFIGS[name].input),
        (wires.outputs, CONFIGS[name].output),
    ):
        assert [w.name for w in ours] == [tensor.name for tensor in theirs]
        assert [w.optional for w in ours] == [getattr(t, "optional", False) for t in theirs]
        assert [w.scalar for w in ours] == [list(t.dims) == [1] for t in theirs]


def test_the_pipeline_takes_what_the_public_model_hands_on() -> None:
    public = {i.name: i for i in CONFIGS["gpt_sovits_v4"].input}
    pipeline = {i.name: i for i in CONFIGS[PIPELINE].input}
    assert set(pipeline) == {*public, "DETAILS"}
    optional = {name for name, tensor in pipeline.items() if tensor.optional}
    # Only what a voice replaces may be absent: Triton batches no requests with different sets.
    assert optional == {"REFERENCE_AUDIO", "REFERENCE_SAMPLE_RATE"}


def test_the_pipeline_answers_what_the_public_model_reads() -> None:
    fields = [field.name.upper() for field in dataclasses.fields(PipelineResult)]
    assert [output.name for output in CONFIGS[PIPELINE].output] == fields


def test_tensors_stay_in_main_memory() -> None:
    """In a GPU's memory each model that they pass would need a CUDA context of its own."""
    for name, config in PYTHON_MODELS.items():
        assert "FORCE_CPU_ONLY_INPUT_TENSORS" not in config.parameters, name


def test_models_without_a_network_never_see_a_gpu() -> None:
    kinds = {name: config.instance_group[0].kind for name, config in PYTHON_MODELS.items()}
    on_cpu = model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert {name for name, kind in kinds.items() if kind == on_cpu} == {
        "gpt_sovits_v4",
        "gpt_sovits_v4_stream",
        "voices",
    }


WITHOUT_A_NETWORK = ("gpt_sovits_v4", "gpt_sovits_v4_stream", "voices")


@pytest.mark.parametrize("name", WITHOUT_A_NETWORK)
def test_models_without_a_network_do_without_torch(name: str) -> None:
    """Each is a process of its own; torch and what comes with it take 150 MB there."""
    module = f"gsv.stages.{stage_of(name).__module__.rpartition('.')[2]}"
    triton = "types.ModuleType('triton_python_backend_utils')"
    script = (
        f"import sys, types; sys.modules['triton_python_backend_utils'] = {triton}\n"
        f"import {module}, gsv.serving.backend.adapter\n"
        "print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
