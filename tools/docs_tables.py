"""Writes the generated tables of the documentation, and says when one of them is stale.

    python tools/docs_tables.py           # rewrite the pages
    python tools/docs_tables.py --check   # exit 1 if one of them is stale

The list of pages comes from their titles and first sentences. Tensors and parameters come from
``model_repository/*/config.pbtxt``, where the comment above one is its description. The type of a
parameter is that of the field in the stage's ``Settings``.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).parent.parent
REPOSITORY = ROOT / "model_repository"
DOCS = ROOT / "docs"
STREAM = "gpt_sovits_v4_stream"
# The order of a request's way, then what stands beside it.
MODELS = (
    "gpt_sovits_v4", STREAM, "gpt_sovits_v4_pipeline", "text_frontend", "reference_encoder",
    "semantic_gpt", "sovits_v4", "vocoder", "voices",
)  # fmt: skip

# Every environment variable that the project reads: who reads it, and what it does.
VARIABLES: dict[str, tuple[str, str]] = {
    "GSV_URL": ("client commands", "The server, where `--url` is not given."),
    "GSV_GATEWAY_TRITON": ("`gsv gateway`", "Triton's gRPC address, as `--url`."),
    "GSV_GATEWAY_KEYS": ("compose", "Folder with the gateway's `gateway.keys`; default `keys`."),
    "GSV_INSTANCES": ("tests", "Instances of each model in the test of several; default 2."),
    "GSV_CROWD": ("tests", "Whole answers, and streams, of the crowd there; default 16."),
    "GSV_SCREENSHOTS": ("tests", "Folder for pictures of the gateway's page."),
    "GSV_CONTROL_KEY": (
        "`gsv serve`, compose",
        "Key for listing, loading and unloading models; or `--control-key-file`.",
    ),
    "GSV_LOG_REQUESTS": (
        "the models",
        "1: every model logs each request that has ended, with its id; see "
        "[logs](operations.md#logs).",
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": (
        "the models",
        "Where spans go; `gsv serve` sets it. See [tracing](operations.md#tracing).",
    ),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("the models", "The same, without `/v1/traces`."),
    "OTEL_SERVICE_NAME": ("the models", "Of the spans; default `gpt-sovits-triton`."),
    "GSV_VOICES": ("`gsv voices`", "The voice folder, as `--voices`."),
    "GSV_PREPARE_TEXT_DATA": ("`gsv prepare`", "As `--text-data`; the container image sets it."),
    "PYTHONPATH": ("`tools/gpu_triton.py`", "Handed to the server beside the tree's own folders."),
    "PYTHONDONTWRITEBYTECODE": (
        "the image, `tools/`",
        "Python's own: no files beside the sources.",
    ),
    "TRITON_INTERPRET": ("tests", "`1`: kernels in Triton's language are interpreted on a CPU."),
    "GSV_KERNELS": ("models on a GPU", "`plain`: PyTorch's kernels instead of our own."),
    "GSV_CACHE": (
        "`gsv serve`",
        "Folder for the embedded server's backend layout; default `gsv` in `XDG_CACHE_HOME`.",
    ),
    "XDG_CACHE_HOME": (
        "`gsv serve`, the models",
        "Where caches lie, compiled CPU kernels among them; default `~/.cache`.",
    ),
    "HF_ENDPOINT": (
        "`gsv prepare --download`",
        "As `--endpoint`: a mirror of the hub.",
    ),
    "OPEN_JTALK_DICT_DIR": ("text frontend", "Folder of the Japanese dictionary (naist-jdic)."),
    "LD_LIBRARY_PATH": (
        "`gsv serve`, `tools/perf_analyzer.py`",
        "Kept, behind the embedded binary's libraries; with `--tritonserver` before our Python's.",
    ),
    "GOMP_SPINCOUNT": (
        "`gsv serve`",
        "0 unless set: OpenMP threads that spin while they wait starve the other models.",
    ),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": (
        "the models",
        "256 unless set: operations of one shape whose code oneDNN keeps, some 1.5 MB each. "
        "See [memory](operations.md#memory).",
    ),
    "TMPDIR": ("`gsv serve`", "Folder for links to paths with spaces, which Triton can't take."),
    "HF_HUB_OFFLINE": ("container image", "1 there: nothing is downloaded at run time."),
    "PATH": ("`gsv serve`", "The running Python comes first in it, for Triton's Python backend."),
    "GSV_DATA": ("compose", "Folder with `model_repository/` and `voices/`; default `data`."),
    "GSV_BIND": ("compose", "Address of the host to listen on; default 127.0.0.1."),
    "GSV_GOLDEN": ("tests", "Folder of an acoustic case recorded from upstream."),
    "GSV_GOLDEN_TEXT": ("tests", "Folder of text cases recorded from upstream."),
    "GSV_TEXT_DATA": ("tests", "Folder of text data, as `gsv prepare` writes it."),
    "GSV_REQUIRE_ORACLE": ("`make test`, CI", "1: missing oracle data is a failure, not a skip."),
    "GSV_SERVER_FILES": (
        "models",
        "Beginning of the paths of signs of life; `gsv serve` sets it, nobody else should.",
    ),
    "GSV_SOAK_SECONDS": (
        "tests",
        "Length of the soak tests; without it only a short one.",
    ),
    "OMP_NUM_THREADS": (
        "`gsv serve`, tests",
        "CPU threads of each process; unless set, 2 on a machine with GPUs, and 1 in tests.",
    ),
    "DEMO_VOICE_ENGINES": (
        "`tools/demo_voice`",
        "Folder with the teachers' programs; default: the installed ones.",
    ),
    "DEMO_VOICE_RUN": ("`tools/demo_voice`", "Working folder; default `build/demo_voice`."),
    "PYTHON": ("`make`", "The Python that `.venv` is made with."),
    "TORCH_ARGS": ("`make`, Dockerfile", "Arguments of pip for torch alone, such as an index."),
    "PIP_ARGS": ("`make`", "Arguments of pip for every package."),
    "PYTEST_ARGS": ("`make test`", "Further arguments of pytest."),
}


def config_text(model: str) -> str:
    """The text of a model's ``config.pbtxt``."""
    return (REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8")


def parsed(model: str) -> Any:
    """A model's configuration as protobuf."""
    return text_format.Parse(config_text(model), model_config_pb2.ModelConfig())


def tensors() -> str:
    """Inputs and outputs of the streaming model, which has all of the public ones."""
    config = parsed(STREAM)
    inputs_text, outputs_text = re.split(r"^output \[", config_text(STREAM), flags=re.MULTILINE)
    return "\n".join(
        [
            "| input | type | shape | meaning, limits, default |",
            "|---|---|---|---|",
            *_tensor_rows(config.input, inputs_text),
            "",
            "| output | type | shape | meaning |",
            "|---|---|---|---|",
            *_tensor_rows(config.output, outputs_text),
        ]
    )


def parameters() -> str:
    """Every parameter of every model, with the value that the configuration ships."""
    return "\n\n".join(_parameters_of(model) for model in MODELS)


def variables() -> str:
    """Every environment variable."""
    rows = [f"| `{name}` | {who} | {what} |" for name, (who, what) in sorted(VARIABLES.items())]
    return "\n".join(["| variable | read by | meaning |", "|---|---|---|", *rows])


def pages() -> str:
    """Every page of the folder with its first sentence."""
    rows = []
    for path in sorted(DOCS.glob("*.md"), key=lambda path: path.stem):
        if path.name == "README.md":
            continue
        title, _, rest = path.read_text(encoding="utf-8").partition("\n")
        paragraph = " ".join(rest.strip().partition("\n\n")[0].split())
        sentence = re.split(r"(?<=\.) ", paragraph)[0]
        sentence = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", sentence)
        rows.append(f"| [{title.removeprefix('# ')}]({path.name}) | {sentence} |")
    return "\n".join(["| page | begins |", "|---|---|", *rows])


# Page and mark → what stands between the marks.
BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "pages"): pages,
    ("requests.md", "tensors"): tensors,
    ("configuration.md", "parameters"): parameters,
    ("configuration.md", "variables"): variables,
}


def _tensor_rows(tensors: Any, text: str) -> list[str]:
    rows = []
    for tensor in tensors:
        kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        kind = "BYTES" if kind == "STRING" else kind
        dims = ["n" if dim == -1 else str(dim) for dim in tensor.dims]
        meaning = comment_above(f'name: "{tensor.name}"', text)
        rows.append(f"| `{tensor.name}` | {kind} | [1,{','.join(dims)}] | {meaning} |")
    return rows


def _parameters_of(model: str) -> str:
    config, text = parsed(model), config_text(model)
    lines = [f"### `{model}`", "", _scheduling(config)]
    if not config.parameters:
        return "\n".join(lines)
    types = _types(model)
    lines += ["", "| parameter | type | value | meaning |", "|---|---|---|---|"]
    for name in re.findall(r'key: "(\w+)" value: \{ string_value', text):
        value = config.parameters[name].string_value
        meaning = comment_above(f'key: "{name}"', text)
        lines.append(f"| `{name}` | {types.get(name, 'Triton')} | `{value}` | {meaning} |")
    return "\n".join(lines)


def _scheduling(config: Any) -> str:
    if config.platform == "ensemble":
        steps = ", ".join(f"`{step.model_name}`" for step in config.ensemble_scheduling.step)
        return f"The ensemble of {steps}; no parameters."
    group = config.instance_group[0]
    kind = type(group).Kind.Name(group.kind)
    batching = "no dynamic batching"
    if config.HasField("dynamic_batching"):
        delay = config.dynamic_batching.max_queue_delay_microseconds
        batching = f"dynamic batching after at most {delay} µs"
    return f"{group.count} instance, {kind}; {batching}, up to {config.max_batch_size} requests."


def _types(model: str) -> dict[str, str]:
    source = (REPOSITORY / model / "1" / "model.py").read_text(encoding="utf-8")
    found = re.search(r"from (gsv\.stages\.\w+) import (\w+)", source)
    if found is None:
        raise ValueError(f"{model}: its model.py imports no stage")
    stage = getattr(importlib.import_module(found[1]), found[2])
    fields = dataclasses.fields(stage.settings_type)
    return {field.name: type(field.default).__name__ for field in fields}


def comment_above(mark: str, text: str) -> str:
    """The comment lines directly above the one line that has ``mark``, as one line."""
    lines = text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if mark in line]
    words: list[str] = []
    while lines[at - 1].strip().startswith("#"):
        at -= 1
        words.insert(0, lines[at].strip().lstrip("# "))
    return " ".join(words)


def updated(page: str, text: str) -> str:
    """The text of a page of ``docs`` with fresh tables between its marks."""
    for (name, mark), make in BLOCKS.items():
        if name == page:
            begin, end = f"<!-- {mark}: made by tools/docs_tables.py -->", f"<!-- end of {mark} -->"
            before, rest = text.split(begin)
            _, after = rest.split(end)
            text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def main() -> int:
    """Rewrite or check; the exit code."""
    stale = 0
    for page in dict.fromkeys(page for page, _ in BLOCKS):
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        fresh = updated(page, text)
        if fresh == text:
            continue
        if "--check" in sys.argv:
            sys.stderr.write(f"docs/{page}: stale; run python tools/docs_tables.py\n")
            stale = 1
        else:
            path.write_text(fresh, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
