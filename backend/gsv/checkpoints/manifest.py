"""``manifest.json`` of a version folder: the size and SHA-256 sum of every file in it.

Written once by ``gsv prepare``, checked by the server before a stage loads anything. It protects
against damage and half-copied folders; whoever can change the weights can change the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsv.errors import CheckpointError

NAME = "manifest.json"
_FORMAT = 1
_BLOCK = 1 << 20  # bytes read at a time
# Not weights: the adapter belongs to the code, and Python writes caches beside it. A lexicon is the
# operator's own, to be changed at will; `gsv calibrate` writes the guard's bounds anew.
_LEFT_OUT = ("model.py", "lexicon.toml", "guard.json", NAME)


def write_manifest(folder: Path, source: Mapping[str, Any]) -> None:
    """Sum up every file of ``folder``; ``source`` says where they came from."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _LEFT_OUT and "__pycache__" not in path.parts
    }
    content = {"format": _FORMAT, "files": files, "source": dict(source)}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file that the folder's manifest lists; files beside them are left alone.

    Returns:
        The manifest's ``source``.

    Raises:
        CheckpointError: the manifest is missing or damaged, or a file is missing or changed; the
            message names it.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, files, source = content["format"], content["files"], content["source"]
        wanted = {str(name): (str(e["sha256"]), int(e["size"])) for name, e in files.items()}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; prepare the model repository with `gsv prepare`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged; run `gsv prepare` again") from error
    if version != _FORMAT:
        raise CheckpointError(f"{path}: format {version!r}; allowed: {_FORMAT}")
    for name, (digest, size) in wanted.items():
        file = folder / name
        if file.name in _LEFT_OUT:
            continue
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; run `gsv prepare` again")
        if file.stat().st_size != size or sha256(file) != digest:
            raise CheckpointError(
                f"{file}: not the file that was prepared (size or SHA-256 differs); "
                "run `gsv prepare` again"
            )
    return dict(source)


def fingerprint(folder: Path) -> str | None:
    """A sum over all files that the folder's manifest lists; None where there is no manifest."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = sorted((name, entry["sha256"]) for name, entry in content["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
