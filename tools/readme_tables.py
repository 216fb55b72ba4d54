"""Writes the tensor tables of both READMEs from ``model_repository/*/config.pbtxt``.

    python tools/readme_tables.py           # rewrite README.md and README.zh-CN.md
    python tools/readme_tables.py --check   # exit 1 if one of them is stale

The comment above a tensor in the config is its description.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).parent.parent
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
STREAM = ROOT / "model_repository" / "gpt_sovits_v4_stream" / "config.pbtxt"
BEGIN, END = "<!-- tensors: made by tools/readme_tables.py -->", "<!-- end of tensors -->"


def table(path: Path = STREAM) -> str:
    """Inputs and outputs of a config as Markdown."""
    text = path.read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    inputs_text, outputs_text = re.split(r"^output \[", text, flags=re.MULTILINE)
    return "\n".join(
        [
            "| input | type | shape | meaning, limits, default |",
            "|---|---|---|---|",
            *_rows(config.input, inputs_text),
            "",
            "| output | type | shape | meaning |",
            "|---|---|---|---|",
            *_rows(config.output, outputs_text),
        ]
    )


def _rows(tensors: Any, text: str) -> list[str]:
    rows = []
    for tensor in tensors:
        kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        kind = "BYTES" if kind == "STRING" else kind
        dims = ["n" if dim == -1 else str(dim) for dim in tensor.dims]
        comment = _comment(tensor.name, text)
        rows.append(f"| `{tensor.name}` | {kind} | [1,{','.join(dims)}] | {comment} |")
    return rows


def _line(name: str, text: str) -> str:
    (line,) = [row for row in text.splitlines() if f'name: "{name}"' in row]
    return line


def _comment(name: str, text: str) -> str:
    lines = text.splitlines()
    at = lines.index(_line(name, text))
    words: list[str] = []
    while lines[at - 1].strip().startswith("#"):
        at -= 1
        words.insert(0, lines[at].strip().lstrip("# "))
    return " ".join(words)


def updated(readme: str) -> str:
    """The text of a README with a fresh table between its marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Rewrite or check; the exit code."""
    stale = 0
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        fresh = updated(text)
        if fresh == text:
            continue
        if "--check" in sys.argv:
            sys.stderr.write(f"{path.name}: stale; run python tools/readme_tables.py\n")
            stale = 1
        else:
            path.write_text(fresh, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
