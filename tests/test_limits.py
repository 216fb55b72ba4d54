"""One table of limits: the backend checks by it, the client shows it, the configurations say it."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from pathlib import Path

import pytest

from gsv import constants, options
from gsv.stages.speech import PublicRequest
from gsv_client import limits
from gsv_client.options import TENSORS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_tables  # noqa: E402


def meaning(tensor: str, model: str = "gpt_sovits_v4") -> str:
    """What the public model's configuration says of an input."""
    inputs = re.split(r"^output \[", docs_tables.config_text(model), flags=re.MULTILINE)[0]
    return docs_tables.comment_above(f'name: "{tensor}"', inputs)


def numbers(text: str) -> set[float]:
    return {float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


@pytest.mark.parametrize("model", ["gpt_sovits_v4", "gpt_sovits_v4_stream"])
@pytest.mark.parametrize("tensor", limits.RANGES)
def test_the_configuration_says_the_range(tensor: str, model: str) -> None:
    allowed = limits.RANGES[tensor]
    said = numbers(meaning(tensor, model))
    assert {allowed.high} <= said
    assert allowed.low in said or f"above {allowed.low:g}" in meaning(tensor, model)


@pytest.mark.parametrize("tensor", sorted(set(limits.DEFAULTS) - {"SEED"}))
def test_the_configuration_says_the_default(tensor: str) -> None:
    default = limits.DEFAULTS[tensor]
    shown = default if isinstance(default, str) else f"{default:g}"
    assert f"default {shown}" in meaning(tensor)


@pytest.mark.parametrize(
    ("tensor", "choices"),
    [("LANGUAGE", limits.LANGUAGES), ("SAMPLE_RATE", limits.SAMPLE_RATES)],
)
def test_the_configuration_says_the_choices(tensor: str, choices: tuple[object, ...]) -> None:
    words = set(re.findall(r"\w+", meaning(tensor)))
    assert {str(choice) for choice in choices} <= words


def test_the_text_limit_and_the_split_methods_are_said() -> None:
    assert limits.TEXT_LIMIT in numbers(meaning("TEXT"))
    assert f"{limits.SPLIT_METHODS[0]} to {limits.SPLIT_METHODS[-1]}" in meaning("SPLIT_METHOD")


def test_the_backend_has_the_defaults_of_the_table() -> None:
    defaults = dataclasses.asdict(options.DEFAULTS)
    table = {name.lower(): value for name, value in limits.DEFAULTS.items()}
    assert defaults.items() <= table.items()
    for field in dataclasses.fields(PublicRequest):
        if field.name in table and field.default is not None:
            assert field.default == table[field.name], field.name


def test_every_option_has_a_limit() -> None:
    """Free texts, recordings and the seed apart."""
    free = {"TEXT", "VOICE", "REFERENCE_AUDIO", "REFERENCE_TEXT", "SEED"}
    choices = {"LANGUAGE", "REFERENCE_LANGUAGE", "SPLIT_METHOD", "SAMPLE_RATE"}
    assert {tensor.name for tensor in TENSORS.values()} == free | choices | set(limits.RANGES)


def test_what_follows_from_the_models() -> None:
    assert limits.RANGES["TOP_K"].high == constants.VOCABULARY
    assert limits.DEFAULTS["SAMPLE_RATE"] == constants.OUTPUT_RATE == max(limits.SAMPLE_RATES)


def test_the_table_is_a_leaf() -> None:
    """The server's processes read it: it must not bring a network library along."""
    tree = ast.parse(Path(limits.__file__).read_text(encoding="utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert modules <= {"__future__", "dataclasses", "math"}
