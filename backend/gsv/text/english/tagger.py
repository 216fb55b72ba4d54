"""Part-of-speech tags for English, to tell homographs apart.

The averaged perceptron of nltk_data (``averaged_perceptron_tagger_eng``), part of this package, or
read from its JSON files; evaluated as nltk evaluates it: the features and the order of ties are
nltk's. Importing nltk for this would cost 1.6 s and 100 MB (it imports scipy and scikit-learn
where they are installed).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from gsv.errors import ConfigurationError

_NAME = "averaged_perceptron_tagger_eng"
_PARTS = ("weights", "tagdict", "classes")
BUNDLED = Path(__file__).parents[1] / "data" / f"{_NAME}.json.gz"  # all three in one
_START = ("-START-", "-START2-")
_END = ("-END-", "-END2-")


class Tagger:
    """Tags tokens from left to right with Penn Treebank tags."""

    def __init__(self, path: Path) -> None:
        """``path``: the tagger's folder, or one file with all three of its tables."""
        if path.is_dir():
            tables = {
                part: json.loads((path / f"{_NAME}.{part}.json").read_text("utf-8"))
                for part in _PARTS
            }
        else:
            tables = json.loads(gzip.decompress(path.read_bytes()))
        weights, tagdict, classes = (tables.get(part) for part in _PARTS)
        if not (isinstance(weights, dict) and isinstance(tagdict, dict) and classes):
            raise ConfigurationError(f"{path}: not the JSON form of nltk's {_NAME}")
        self._weights: dict[str, dict[str, float]] = weights
        self._sure: dict[str, str] = tagdict  # words that have one tag always
        self._classes = sorted(str(label) for label in classes)

    def tag(self, tokens: list[str]) -> list[str]:
        """One tag for each token."""
        context = [*_START, *map(_shape, tokens), *_END]
        tags: list[str] = []
        before, before2 = _START
        for index, word in enumerate(tokens):
            tag = self._sure.get(word)
            if tag is None:
                tag = self._best(_features(index + len(_START), word, context, before, before2))
            tags.append(tag)
            before, before2 = tag, before
        return tags

    def _best(self, features: Iterator[str]) -> str:
        scores = dict.fromkeys(self._classes, 0.0)
        for feature in features:
            for label, weight in self._weights.get(feature, {}).items():
                scores[label] += weight
        return max(self._classes, key=lambda label: (scores[label], label))


def _shape(word: str) -> str:
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[0].isdigit() else word.lower()


def _features(
    index: int, word: str, context: list[str], before: str, before2: str
) -> Iterator[str]:
    yield "bias"
    yield f"i suffix {word[-3:]}"
    yield f"i pref1 {word[0]}"
    yield f"i-1 tag {before}"
    yield f"i-2 tag {before2}"
    yield f"i tag+i-2 tag {before} {before2}"
    yield f"i word {context[index]}"
    yield f"i-1 tag+i word {before} {context[index]}"
    yield f"i-1 word {context[index - 1]}"
    yield f"i-1 suffix {context[index - 1][-3:]}"
    yield f"i-2 word {context[index - 2]}"
    yield f"i+1 word {context[index + 1]}"
    yield f"i+1 suffix {context[index + 1][-3:]}"
    yield f"i+2 word {context[index + 2]}"
