"""Write `unary.json` and `stream.json`, what perf_analyzer sends to the two public models.

    python benchmarks/perf_analyzer/make_inputs.py [FOLDER]

The texts are those of `gsv bench`. Each is one step of the data stream, so that short and long
requests meet in the server. The same seed for the same text keeps runs comparable. Shapes are those
of a request without the batch dimension, as perf_analyzer wants them for models that batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gsv_client.bench.load import Text, load_texts

# Fewer flow-matching steps than the default of 32: a figure in minutes also on a CPU.
SAMPLE_STEPS = 8
# A stream shows its nature with more than a word: first audio long before the end.
FEWEST_LETTERS_OF_A_STREAM = 12


def main(folder: Path) -> None:
    """Write both files into `folder`."""
    texts = load_texts()
    write(folder / "unary.json", texts)
    write(
        folder / "stream.json",
        [text for text in texts if len(text.text) >= FEWEST_LETTERS_OF_A_STREAM],
    )


def write(path: Path, texts: list[Text]) -> None:
    """One request for each text."""
    steps = [request(text, seed) for seed, text in enumerate(texts)]
    lines = ",\n".join("  " + json.dumps(step, ensure_ascii=False) for step in steps)
    path.write_text(f'{{"data": [\n{lines}\n]}}\n', encoding="utf-8")


def request(text: Text, seed: int) -> dict[str, Any]:
    """Tensor name → content and shape."""
    values = {
        "TEXT": text.text,
        "LANGUAGE": text.language,
        "SEED": seed,
        "SAMPLE_STEPS": SAMPLE_STEPS,
    }
    return {name: {"content": [value], "shape": [1]} for name, value in values.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
