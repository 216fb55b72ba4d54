"""What the second command for GPUs packs and serves, without a server."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tools"))

import gpu_triton  # noqa: E402
from gpu_steps import own_python, repository, server_archive  # noqa: E402
from gpu_steps.inputs import MOST_SENTENCES, reference, text  # noqa: E402
from gpu_steps.pipeline import Pipeline  # noqa: E402
from gpu_steps.placeholder_stages import (  # noqa: E402
    ReferencePlaceholder,
    ReferenceSettings,
    TextPlaceholder,
    TextSettings,
)
from gpu_steps.setup import Setup, write_weights  # noqa: E402

from gsv.checkpoints.manifest import verify_manifest  # noqa: E402
from gsv.constants import MEL_CHANNELS, OUTPUT_RATE  # noqa: E402
from gsv.stages.base import Place  # noqa: E402
from gsv.stages.messages import (  # noqa: E402
    MelResult,
    ReferenceRequest,
    SemanticResult,
    TextRequest,
)
from gsv.stages.speech import PublicRequest  # noqa: E402
from gsv.stages.synthesis import Speech  # noqa: E402

needs_server = pytest.mark.skipif(
    importlib.util.find_spec("pytriton") is None, reason="no nvidia-pytriton"
)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    made = Setup("cpu", "float32", True, tmp_path_factory.mktemp("work"))
    write_weights(made, "tiny")
    return made


def test_a_repository_has_all_models_and_both_placeholders(setup: Setup) -> None:
    root = repository.make(setup, setup.folder / "served", sentence_tokens=30)
    assert {p.name for p in root.iterdir()} == {
        p.name for p in (ROOT / "model_repository").iterdir()
    }
    engine = (root / "semantic_gpt" / "config.pbtxt").read_text(encoding="utf-8")
    assert 'key: "max_tokens" value: { string_value: "30" }' in engine
    for name in repository.PLACEHOLDERS:
        own = (root / name / "1" / "model.py").read_text(encoding="utf-8")
        assert "Placeholder" in own
    for config in root.glob("*/config.pbtxt"):
        assert verify_manifest(config.parent / "1")["demo"] is True
    assert (setup.folder / "served" / "voices" / "sample" / "voice.toml").is_file()


def test_a_parameter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "config.pbtxt"
    config.write_text('parameters [ { key: "dtype" value: { string_value: "auto" } } ]\n')
    repository.set_parameter(config, "dtype", "bfloat16")
    assert '"bfloat16"' in config.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"0 parameters are called 'slots'"):
        repository.set_parameter(config, "slots", "1")


@pytest.mark.parametrize("sentences", [1, MOST_SENTENCES])
def test_the_stages_take_what_the_placeholders_give(sentences: int) -> None:
    request = PublicRequest(text=str(sentences), sample_steps=7).filled()
    speech = Speech(request, text(sentences), reference())
    assert len(speech.semantic().request.phoneme_counts) == sentences
    assert speech.sentences == sentences
    tokens = np.zeros(25 * sentences, np.int32)
    counts = np.full(sentences, 25, np.int32)
    assert speech.mel(SemanticResult(tokens, counts, 1)).request.sample_steps == 7
    mel = MelResult(np.zeros((MEL_CHANNELS, sentences), np.float32), np.ones(sentences, np.int32))
    assert len(speech.wave(mel).request.pauses) == sentences + 1


def test_more_sentences_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="sentences: got 9; allowed: 1 to 8"):
        text(9)


@pytest.fixture
def backend_utils(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the stub brings; importing the adapter needs no more of it."""
    monkeypatch.setitem(
        sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils")
    )
    for name in (
        "gsv.serving.backend.adapter",
        "gsv.serving.backend.bls_client",
        "gsv.serving.backend.error_codes",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    gc.enable()  # as a model's process does when it has imported everything


PLACEHOLDERS = {"text_frontend": TextPlaceholder, "reference_encoder": ReferencePlaceholder}


@pytest.mark.usefixtures("backend_utils")
@pytest.mark.parametrize("name", repository.PLACEHOLDERS)
def test_placeholders_serve_their_stages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"gpu_steps.placeholders.{name}", raising=False)
    model = importlib.import_module(f"gpu_steps.placeholders.{name}").TritonPythonModel
    assert model.stage is PLACEHOLDERS[name]


@pytest.mark.parametrize("name", repository.PLACEHOLDERS)
def test_placeholders_take_the_parameters_of_the_real_models(name: str) -> None:
    config = (ROOT / "model_repository" / name / "config.pbtxt").read_text(encoding="utf-8")
    given = dict(re.findall(r'key: "(\w+)" value: \{ string_value: "([^"]*)" \}', config))
    assert "dtype" in given
    PLACEHOLDERS[name].settings_type.parse(given)


def test_placeholders_answer(tmp_path: Path) -> None:
    texts = TextPlaceholder(Place(tmp_path), TextSettings())
    one, three = texts.run_batch([TextRequest("1"), TextRequest("3")])
    assert (len(one.phoneme_counts), len(three.phoneme_counts)) == (1, 3)
    references = ReferencePlaceholder(Place(tmp_path), ReferenceSettings())
    first, second = references.run_batch([ReferenceRequest("a"), ReferenceRequest("b")])
    assert first.reference_mel is second.reference_mel


def test_the_pipeline_answers_whole_and_streamed(setup: Setup) -> None:
    pipeline = Pipeline(setup, sentence_tokens=30)
    try:
        pipeline.calls = []
        whole = pipeline.whole(2, seed=1, steps=1)
        called = {model for model, _, _ in pipeline.calls}
        assert called == {*PLACEHOLDERS, "semantic_gpt", "sovits_v4", "vocoder"}
        assert len(whole.audio) == 2 * 30 / 25 * OUTPUT_RATE
        chunks = list(pipeline.stream(2, seed=1, steps=1))
        assert sum(len(chunk.audio) for chunk in chunks) == len(whole.audio)
        assert {chunk.sentence_index for chunk in chunks} == {0, 1}
    finally:
        pipeline.close()


def test_the_own_python_sees_the_folders_in_order(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gsv_where.py").write_text(f"place = {name!r}\n", encoding="utf-8")
    python = own_python.make(tmp_path / "venv", [tmp_path / "first", tmp_path / "second"])
    # Isolated, as the stub's interpreter is: PYTHONPATH is not read.
    code = "import gsv_where, numpy; print(gsv_where.place)"
    done = subprocess.run(
        [str(python), "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "first"


def test_a_library_without_its_tables_still_links(tmp_path: Path) -> None:
    library = tmp_path / "libicudata-c1404396.so.70.1"
    library.write_bytes(b"tables")
    (tmp_path / "made").mkdir()
    made = server_archive._without_tables(library, tmp_path / "made")
    if made == library:
        pytest.skip("no C compiler here")
    assert hasattr(ctypes.CDLL(str(made)), "icudt70_dat")
    assert made.stat().st_size < 100_000


@needs_server
def test_a_python_without_a_stub_is_refused(tmp_path: Path) -> None:
    command = ["pack", str(tmp_path / "t.tar.xz"), "--python", "3.7"]
    result = CliRunner().invoke(gpu_triton.main, command)
    assert result.exit_code == 1
    assert "has no stub for Python 3.7; it has ['3.10'" in result.output
    assert list(tmp_path.iterdir()) == []


def test_wheels_are_packed_without_what_nobody_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    files = [
        "pytriton/__init__.py",
        "pytriton/tritonserver/bin/tritonserver",
        "pytriton/tritonserver/backends/python/libtriton_python.so",
        "pytriton/tritonserver/python_backend_stubs/3.12/triton_python_backend_stub",
        "nvidia_pytriton.libs/libone.so",
        "nvidia_pytriton.libs/libpython3-419a3a08.13.so.1.0",
        *(f"tritonclient/grpc/{name}" for name in server_archive._CLIENT),
        "tritonclient/utils/__init__.py",
    ]
    for name in files:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("GRPC_GENERATED_VERSION = '99.0'\n", encoding="utf-8")
    stub = site / files[3]
    monkeypatch.setattr(server_archive, "_server", lambda python: (site, stub))
    monkeypatch.setattr(server_archive.importlib.metadata, "version", lambda name: "0.7.0")
    with zipfile.ZipFile(tmp_path / "some-1-py3-none-any.whl", "w") as wheel:
        for name in ("some/__init__.py", "some/tests/test_it.py", "some/__init__.pyi"):
            wheel.writestr(name, "")
    archive = tmp_path / "server.tar.xz"
    assert server_archive.pack(archive, "3.12", sorted(tmp_path.glob("*.whl"))) > 0
    server_archive.unpack(archive, tmp_path / "there")
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
    assert "some/__init__.py" in names
    assert not {"some/tests/test_it.py", "some/__init__.pyi", files[5]} & names
    assert {files[1], files[3], files[4]} <= names
    code = (tmp_path / "there/tritonclient/grpc/service_pb2_grpc.py").read_text(encoding="utf-8")
    assert "'1.63.0'" in code  # any grpcio will do
    assert (tmp_path / "there/nvidia_pytriton-0.7.0.dist-info/METADATA").is_file()


def test_the_shared_python_of_this_one_is_found_or_named_as_missing() -> None:
    found = server_archive.libpython()
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    assert found is None or found.name == name
