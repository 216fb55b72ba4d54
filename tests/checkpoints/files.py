"""Files for the tests of the checkpoint room: honest ones, and ones made to do harm."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden import case_weights, golden_seed, make_weights, manifest


class HParams:
    """Stands in for upstream's ``utils.HParams`` when test files are written."""

    def __init__(self, **values: Any) -> None:
        for key, value in values.items():
            setattr(self, key, HParams(**value) if isinstance(value, dict) else value)


HParams.__module__ = "utils"
HParams.__qualname__ = "HParams"


class Bomb:
    """Pickled, it is a call of a function; unpickled carelessly, the call is made."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def marker_bomb(marker: Path) -> Bomb:
    """Makes the file ``marker`` when it goes off."""
    return Bomb(os.system, f"touch {marker}")


@contextlib.contextmanager
def upstream_utils() -> Iterator[None]:
    """Within: pickle finds ``utils.HParams``, as it does where upstream runs."""
    module = types.ModuleType("utils")
    module.HParams = HParams  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, utils=module):
        yield


def save(content: Any, path: Path, *, legacy: bool = False, header: bytes = b"PK") -> Path:
    """torch.save in the zip or the older form, with upstream's class and header trick."""
    buffer = io.BytesIO()
    with upstream_utils():
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    path.write_bytes(data if header == b"PK" else header + data[2:])
    return path


def save_pickle(pickled: bytes, path: Path, storages: dict[str, bytes] | None = None) -> Path:
    """A zip archive in torch's form around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A few tensors of several kinds and layouts."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 4, generator=generator)
    return {
        "matrix": matrix,
        "transposed": matrix.t(),
        "row": matrix[2],
        "half": matrix.half(),
        "bfloat": matrix.bfloat16(),
        "double": matrix.double(),
        "scalar": torch.tensor(3.5),
        "numbers": torch.arange(5),
        "empty": torch.empty(0),
        "flags": torch.tensor([True, False]),
    }


def lora_content(rank: int = 8) -> dict[str, Any]:
    """What upstream's training saves for a v4 LoRA of the tiny model, by the golden rule."""
    seed, normal = golden_seed(), make_weights().normal
    base = case_weights("s2", "tiny")
    # What is trained besides the LoRA drifts: the base and 5 % of a second draw.
    drift = make_weights().build(manifest("s2Gv4", "tiny"), "s2", seed, "lora:")
    weight: dict[str, torch.Tensor] = {}
    for key, value in base.items():
        inside = key.replace("cfm.", "cfm.base_model.model.", 1)
        if key.endswith("inv_freq"):
            weight[inside] = value.half()
        elif ".attn.to_" in key and key.endswith("weight"):
            out, width = value.shape
            down = inside.replace(".weight", ".lora_A.default.weight")
            up = inside.replace(".weight", ".lora_B.default.weight")
            a = normal(down, (rank, width), seed) / np.float32(math.sqrt(width))
            b = normal(up, (out, rank), seed) * np.float32(0.5 / math.sqrt(rank))
            weight |= {down: torch.from_numpy(a).half(), up: torch.from_numpy(b).half()}
        elif not key.startswith(("cfm.", "enc_p.", "ssl_proj.")):
            fixed = key.startswith("quantizer.") or key.endswith("weight_g")
            weight[key] = (value if fixed else value + 0.05 * drift[key]).half()
    config = HParams(**manifest("s2Gv4", "tiny")["config"])
    info = "3epoch_120iteration"
    return {"weight": weight, "config": config, "info": info, "lora_rank": rank}


def pickled(value: Any, protocol: int = 2) -> bytes:
    """Plain pickle bytes."""
    return pickle.dumps(value, protocol)
