"""The voice folder: ``voices/NAME/voice.toml`` beside its reference recording.

A request names a voice; it never names a path. Names follow a strict pattern and every path in
``voice.toml`` must stay inside the voice's own folder.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from gsv.errors import InvalidRequest, VoiceError
from gsv.options import LANGUAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VOICE_FILE = "voice.toml"
KEYS = {"reference", "text", "language"}


@dataclasses.dataclass(frozen=True)
class Voice:
    """One voice: a reference recording of 3 to 10 s and what is said in it."""

    name: str
    reference: Path
    text: str
    language: str


class VoiceFolder:
    """Reads voices by name from one folder."""

    def __init__(self, folder: Path, default: str = "") -> None:
        self.folder = folder
        self.default = default

    def names(self) -> list[str]:
        """Names of all voices, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(p.parent.name for p in self.folder.glob(f"*/{VOICE_FILE}"))

    def get(self, name: str) -> Voice:
        """The voice called ``name``, or the default voice for an empty name.

        InvalidRequest when there is none of that name; VoiceError when its folder is broken.
        """
        name = name or self.default
        if not name:
            raise InvalidRequest(
                "VOICE: none given, and this server has no default voice; "
                f"allowed: {self._listing()}, or REFERENCE_AUDIO with REFERENCE_TEXT"
            )
        if not NAME_PATTERN.fullmatch(name) or not (self.folder / name / VOICE_FILE).is_file():
            raise InvalidRequest.value("VOICE", name, self._listing())
        return load_voice(self.folder / name)

    def _listing(self) -> str:
        return ", ".join(self.names()) or "no voice (the voice folder is empty)"


def load_voice(folder: Path) -> Voice:
    """Read and check one voice folder; VoiceError says what is wrong."""
    path = folder / VOICE_FILE
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoiceError(f"voice {folder.name}: {VOICE_FILE} can't be read: {error}") from error
    missing, unknown = sorted(KEYS - set(values)), sorted(set(values) - KEYS)
    if missing or unknown:
        raise VoiceError(
            f"voice {folder.name}: {VOICE_FILE} lacks {missing} and has unknown keys {unknown}; "
            f"allowed: {sorted(KEYS)}"
        )
    for key in KEYS:
        if not isinstance(values[key], str) or not values[key].strip():
            raise VoiceError(f"voice {folder.name}: {key} must be a text, got {values[key]!r}")
    if values["language"] not in LANGUAGES:
        raise VoiceError(
            f"voice {folder.name}: language {values['language']!r} is none of {LANGUAGES}"
        )
    return Voice(
        name=folder.name,
        reference=_inside(folder, values["reference"]),
        text=values["text"],
        language=values["language"],
    )


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise VoiceError(f"voice {folder.name}: {name!r} leaves the voice's folder")
    if not path.is_file():
        raise VoiceError(f"voice {folder.name}: {name!r} is no file")
    return path
