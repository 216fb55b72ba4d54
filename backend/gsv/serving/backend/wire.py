"""Names, types and shapes of a model's tensors, as its ``config.pbtxt`` declares them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsv.errors import ConfigurationError

# Triton's name of each type that our models use (docs: model_configuration, "Datatypes").
NUMPY_TYPES: Mapping[str, type[Any]] = {
    "TYPE_BOOL": np.bool_,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_UINT64": np.uint64,
    "TYPE_FP32": np.float32,
    "TYPE_STRING": np.object_,
}  # Names and numbers, strings, punctuation of protobuf's text format; comments are left out.
_TOKEN = re.compile(r'#[^\n]*|"((?:[^"\\]|\\.)*)"|([\w.+-]+)|([\[\]{}:,;])')


@dataclasses.dataclass(frozen=True)
class Wire:
    """One tensor of a model."""

    name: str
    numpy_type: type[Any]
    scalar: bool  # dims: [ 1 ]
    optional: bool  # an input that may be left out

    @property
    def field(self) -> str:
        """Its name in a request or result of ours."""
        return self.name.lower()


def read_wire(declared: Sequence[Mapping[str, Any]]) -> list[Wire]:
    """The tensors of one side of a model's configuration.

    Raises:
        ConfigurationError: a type that none of our models uses.
    """
    wire = []
    for tensor in declared:
        kind = tensor["data_type"]
        if kind not in NUMPY_TYPES:
            raise ConfigurationError(
                f"{tensor['name']}: data_type {kind}; allowed: {', '.join(NUMPY_TYPES)}"
            )
        wire.append(
            Wire(
                name=tensor["name"],
                numpy_type=NUMPY_TYPES[kind],
                scalar=[str(size) for size in tensor["dims"]] == ["1"],
                optional=str(tensor.get("optional", "false")).lower() == "true",
            )
        )
    return wire


@dataclasses.dataclass(frozen=True)
class ModelWire:
    """Both sides of a model."""

    inputs: list[Wire]
    outputs: list[Wire]


def read_config(config: Path) -> ModelWire:
    """The tensors of the model whose ``config.pbtxt`` this is.

    Raises:
        ConfigurationError: it can't be read, or it isn't protobuf's text format.
    """
    try:
        text = config.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{config}: {error.strerror}") from error
    try:
        fields = _message(_tokens(text), end=None)
    except (StopIteration, ValueError) as error:
        raise ConfigurationError(f"{config}: is not protobuf's text format") from error
    return ModelWire(*(read_wire(_declared(fields, side)) for side in ("input", "output")))


def _declared(fields: Mapping[str, list[Any]], side: str) -> list[dict[str, Any]]:
    return [_plain(tensor) for value in fields.get(side, []) for tensor in _listed(value)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(tensor: Mapping[str, list[Any]]) -> dict[str, Any]:
    """A tensor's fields without the lists that repeated fields are read into; but for its dims."""
    plain = {name: values[-1] for name, values in tensor.items()}
    return plain | {"dims": [size for value in tensor["dims"] for size in _listed(value)]}


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """Each token, and whether it is a quoted string."""
    for match in _TOKEN.finditer(text):
        if match[1] is not None:
            yield re.sub(r"\\(.)", r"\1", match[1]), True
        elif match[2] or match[3]:
            yield match[2] or match[3], False


def _message(tokens: Iterator[tuple[str, bool]], end: str | None) -> dict[str, list[Any]]:
    """Fields up to ``end``; each name's values in order."""
    fields: dict[str, list[Any]] = {}
    for name, quoted in tokens:
        if not quoted and name == end:
            return fields
        if not quoted and name in ",;":
            continue
        fields.setdefault(name, []).append(_value(tokens))
    if end is not None:
        raise ValueError(f"no {end}")
    return fields


def _value(tokens: Iterator[tuple[str, bool]]) -> Any:
    token, quoted = next(tokens)
    if not quoted and token == ":":
        token, quoted = next(tokens)
    if quoted or token not in "[{":
        return token
    return _message(tokens, "}") if token == "{" else _list(tokens)


def _list(tokens: Iterator[tuple[str, bool]]) -> list[Any]:
    values: list[Any] = []
    for token, quoted in tokens:
        if quoted:
            values.append(token)
        elif token == "]":
            return values
        elif token == "{":
            values.append(_message(tokens, "}"))
        elif token not in ",;":
            values.append(token)
    raise ValueError("no ]")
