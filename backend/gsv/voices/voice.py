"""One voice: ``voice.toml`` and the files that it names, all inside the voice's own folder.

Whoever may write the folder is not trusted with more than that: names follow a strict pattern, a
path that leads out of the folder is refused wherever its symbolic links go, and every file has a
limit on its size. ``lexicon.toml`` beside ``voice.toml`` holds the voice's own readings of words.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsv.constants import MAX_TRANSCRIPT
from gsv.errors import ConfigurationError, InvalidRequest, VoiceError, shown
from gsv.options import LANGUAGES, check_range
from gsv.text import lexicon as lexicons
from gsv.toml_file import parse_toml
from gsv.voices.files import open_regular

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VOICE_FILE = "voice.toml"
SAMPLING_TYPES: dict[str, type] = {
    "top_k": int,
    "top_p": float,
    "temperature": float,
    "repetition_penalty": float,
    "speed": float,
    "sample_steps": int,
}
_REFERENCE_KEYS = ("reference", "text", "language")
_KEYS = {*_REFERENCE_KEYS, "gpt", "sovits", "references", "sampling"}

TOML_LIMIT = 64 << 10  # bytes
RECORDING_LIMIT = 64 << 20
RECORDINGS_LIMIT = 256 << 20  # of all recordings of a voice together
LEXICON_LIMIT = 1 << 20  # some 30,000 words
WEIGHTS_LIMIT = 4 << 30
_REFERENCES_LIMIT = 100
_MESSAGE_LIMIT = 900  # characters; parsers and the system put names of any length into theirs
_DIGEST_CHARACTERS = 16


@dataclasses.dataclass(frozen=True)
class Voice:
    """A voice with one of its references chosen.

    Attributes:
        name: of the folder, with ``/REFERENCE`` for a further reference.
        folder: where all its files are.
        reference: recording of 3 to 10 s.
        text: what is said in it.
        language: of the text.
        gpt: weights of a fine-tuned GPT, if the voice has its own.
        sovits: weights of a fine-tuned SoVITS, LoRA or full, if the voice has its own.
        references: names of the further references, sorted.
        sampling: the voice's own defaults of request options, by field name.
        lexicon: readings of words, by language; checked, but for what needs dictionaries.
        lexicon_content: stands for these words; made once, for there may be some 30,000.
        digest: stands for the whole folder's content: of ``voice.toml``, lexicon and recordings
            their bytes, of weights size and time of change (they are too big to be read at a
            request).
        content: stands for this reference alone: the bytes of its recording, text and language.
    """

    name: str
    folder: Path
    reference: Path
    text: str
    language: str
    gpt: Path | None = None
    sovits: Path | None = None
    references: tuple[str, ...] = ()
    sampling: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    lexicon: lexicons.Words = dataclasses.field(default_factory=dict)
    lexicon_content: str = "{}"
    digest: str = ""
    content: str = ""

    @property
    def label(self) -> str:
        """The folder's name, the same for all its references."""
        return self.name.partition("/")[0]

    @property
    def pinned(self) -> str:
        """The name of this version of the voice, for calls between stages."""
        return f"{self.name}@{self.digest}"


@dataclasses.dataclass(frozen=True)
class VoiceEntry:
    """All that a voice's folder holds.

    Attributes:
        base: the voice with its own reference.
        others: by name of the reference.
        signature: changes when a file of the folder does; see :func:`signature`.
    """

    base: Voice
    others: dict[str, Voice]
    signature: tuple[Any, ...]


def read_text(folder: Path) -> str:
    """The text of a folder's ``voice.toml``; that it is TOML is checked, and its outermost keys."""
    reader = _Reader(folder)
    data = reader.read(VOICE_FILE, TOML_LIMIT)
    reader.parse(data)
    return data.decode("utf-8")


def load_voice(folder: Path) -> Voice:
    """Read and check one voice folder; VoiceError says what is wrong."""
    return load_entry(folder).base


def load_entry(folder: Path) -> VoiceEntry:
    """Read and check one voice folder with all its references.

    Raises:
        VoiceError: says what is wrong, in one line.
    """
    reader = _Reader(folder)
    # Before they are read: a later change is then seen.
    toml_states = [_state(folder / name) for name in (VOICE_FILE, lexicons.FILE)]
    content = reader.read(VOICE_FILE, TOML_LIMIT)
    values = reader.parse(content)
    tables = reader.references(values.get("references", {}))
    lexicon_bytes = reader.lexicon_bytes()
    lexicon = reader.lexicon(lexicon_bytes)
    base = Voice(
        name=folder.name,
        folder=folder,
        **reader.reference(values, "", {}),
        gpt=reader.weights("gpt", values.get("gpt")),
        sovits=reader.weights("sovits", values.get("sovits")),
        references=tuple(sorted(tables)),
        sampling=reader.sampling(values.get("sampling", {})),
        lexicon=lexicon,
        lexicon_content=_content_of(lexicon),
    )
    defaults = {"text": base.text, "language": base.language}
    others = {
        name: dataclasses.replace(
            base, name=f"{folder.name}/{name}", **reader.reference(table, name, defaults)
        )
        for name, table in tables.items()
    }
    states = (*toml_states, *(_state(path) for path in _files(base, others)))
    digest = hashlib.sha256(content)
    if lexicon_bytes:
        digest.update(lexicon_bytes)
    voices = (base, *others.values())
    contents = reader.contents(voices)
    for one in contents:
        digest.update(one.encode())
    for path in _weights(base):
        state = path.stat()
        digest.update(f"{path.name}:{state.st_size}:{state.st_mtime_ns}".encode())
    name = digest.hexdigest()[:_DIGEST_CHARACTERS]
    first, *rest = (
        dataclasses.replace(voice, digest=name, content=one)
        for voice, one in zip(voices, contents, strict=True)
    )
    return VoiceEntry(first, dict(zip(others, rest, strict=True)), states)


def signature(folder: Path, entry: VoiceEntry) -> tuple[Any, ...]:
    """What tells a changed folder without reading it: size and times of each file."""
    named = [folder / VOICE_FILE, folder / lexicons.FILE]
    return tuple(_state(path) for path in (*named, *_files(entry.base, entry.others)))


def _files(base: Voice, others: Mapping[str, Voice]) -> list[Path]:
    return [voice.reference for voice in (base, *others.values())] + _weights(base)


def _weights(voice: Voice) -> list[Path]:
    return [path for path in (voice.gpt, voice.sovits) if path is not None]


def _state(path: Path) -> tuple[Any, ...]:
    try:
        state = path.stat()
    except OSError:
        return (path.name, None)
    return (path.name, state.st_ino, state.st_size, state.st_mtime_ns)


def _is_utf8(name: str) -> bool:
    """Whether a name is text: other bytes of file names are lone surrogates in Python."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _content_of(lexicon: lexicons.Words) -> str:
    """What stands for a lexicon's words; of none their JSON itself, as it always was."""
    text = json.dumps(lexicon, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if lexicon else text


class _Reader:
    """Checks of one folder's content; every error begins with the voice's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not NAME_PATTERN.fullmatch(folder.name):
            raise self._error(
                f"a name is letters, digits, '_', '.' and '-', up to 64; got {shown(folder.name)}"
            )
        try:
            self._root = folder.resolve(strict=True)
            parent = folder.parent.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise self._error(f"{VOICE_FILE} can't be read: {error}") from error
        if not self._root.is_relative_to(parent):
            raise self._error("its folder is a link that leads out of the voice folder")

    def _error(self, message: str) -> VoiceError:
        return VoiceError(f"voice {self._folder.name[:64]}: {message[:_MESSAGE_LIMIT]}")

    def path(self, name: str | Path, limit: int) -> Path:
        """The file ``name``, inside the folder and no longer than ``limit`` bytes."""
        given = shown(str(name))
        try:
            path = (self._folder / name).resolve()
            inside = path.is_relative_to(self._root)
            # A regular file only: a pipe would let the server wait for ever.
            known = inside and path.is_file()
            size = path.stat().st_size if known else 0
        except (OSError, ValueError, RuntimeError) as error:
            # The system's own words: the whole error repeats the name, with the server's folders.
            why = error.strerror if isinstance(error, OSError) else error
            raise self._error(f"{given} can't be read: {why}") from error
        if not inside:
            raise self._error(f"{given} leaves the voice's folder; move the file into it")
        if not known:
            raise self._error(f"{given} is not a file")
        if size > limit:
            raise self._error(f"{given} has {size:,} bytes; allowed: up to {limit:,}")
        # Lists and messages name the file that a link leads to, and they are UTF-8.
        if not _is_utf8(target := str(path.relative_to(self._root))):
            raise self._error(
                f"{given} is a link to {shown(target)}, a name that is not UTF-8; rename it"
            )
        return path

    def read(self, name: str | Path, limit: int) -> bytes:
        """The bytes of a checked file."""
        path = self.path(name, limit)
        try:
            with open_regular(path) as file:
                return file.read(limit)
        except OSError as error:
            raise self._error(f"{path.name} can't be read: {error.strerror}") from error

    def contents(self, voices: Sequence[Voice]) -> list[str]:
        """What stands for the content of each reference."""
        found, left = [], RECORDINGS_LIMIT
        for voice in voices:
            recording = self.read(voice.reference, RECORDING_LIMIT)
            left -= len(recording)
            if left < 0:
                raise self._error(
                    f"its recordings have more than the {RECORDINGS_LIMIT:,} bytes that are "
                    "allowed together"
                )
            digest = hashlib.sha256(recording)
            digest.update(f"\0{voice.language}\0{voice.text}".encode())
            found.append(digest.hexdigest())
        return found

    def parse(self, content: bytes) -> dict[str, Any]:
        try:
            values = parse_toml(content)
        except ValueError as error:
            raise self._error(f"{VOICE_FILE} can't be read: {error}") from error
        if unknown := sorted(set(values) - _KEYS):
            raise self._error(
                f"{VOICE_FILE} has unknown keys {shown(unknown)}; allowed: {sorted(_KEYS)}"
            )
        return values

    def lexicon_bytes(self) -> bytes:
        """The lexicon's content; empty where there is none."""
        # A dangling link counts as present, so that it is reported.
        present = os.path.lexists(self._folder / lexicons.FILE)
        return self.read(lexicons.FILE, LEXICON_LIMIT) if present else b""

    def lexicon(self, content: bytes) -> lexicons.Words:
        """The lexicon's words by language."""
        try:
            words = lexicons.parse(content, lexicons.FILE)
            lexicons.check(words)
        except ConfigurationError as error:
            raise self._error(str(error)) from error
        return words

    def reference(
        self, values: Mapping[str, Any], name: str, defaults: Mapping[str, str]
    ) -> dict[str, Any]:
        """Recording, text and language of one reference."""
        where = f"references.{name}." if name else ""
        found: dict[str, Any] = {}
        for key in _REFERENCE_KEYS:
            value = values.get(key, defaults.get(key) if key == "language" else None)
            if not isinstance(value, str) or not value.strip():
                raise self._error(f"{where}{key} must be a text, got {shown(value)}")
            found[key] = value
        if found["language"] not in LANGUAGES:
            raise self._error(
                f"{where}language {shown(found['language'])} is not one of {', '.join(LANGUAGES)}"
            )
        if len(found["text"]) > MAX_TRANSCRIPT:
            raise self._error(
                f"{where}text has {len(found['text'])} characters; allowed: up to "
                f"{MAX_TRANSCRIPT}, the words of the recording"
            )
        found["reference"] = self.path(found["reference"], RECORDING_LIMIT)
        return found

    def references(self, tables: Any) -> dict[str, dict[str, Any]]:
        if not isinstance(tables, dict) or len(tables) > _REFERENCES_LIMIT:
            raise self._error(
                f"references must be tables [references.NAME], up to {_REFERENCES_LIMIT}"
            )
        for name, table in tables.items():
            if not NAME_PATTERN.fullmatch(name):
                raise self._error(
                    f"references.{name[:64]!r}: a name is letters, digits, '_', '.' and '-', "
                    "up to 64"
                )
            if not isinstance(table, dict) or (extra := sorted(set(table) - {*_REFERENCE_KEYS})):
                given = table if not isinstance(table, dict) else extra
                raise self._error(
                    f"references.{name}: got {shown(given)}; allowed: a table with the keys "
                    f"{list(_REFERENCE_KEYS)}"
                )
        known: dict[str, dict[str, Any]] = tables
        return known

    def weights(self, key: str, value: Any) -> Path | None:
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self._error(f"{key} must be a file name, got {shown(value)}")
        return self.path(value, WEIGHTS_LIMIT)

    def sampling(self, table: Any) -> dict[str, int | float]:
        if not isinstance(table, dict) or (unknown := sorted(set(table) - set(SAMPLING_TYPES))):
            given = table if not isinstance(table, dict) else unknown
            raise self._error(f"sampling: got {shown(given)}; allowed: {sorted(SAMPLING_TYPES)}")
        return {key: self._number(key, value) for key, value in table.items()}

    def _number(self, key: str, value: Any) -> int | float:
        kind = SAMPLING_TYPES[key]
        # TOML's 1 is a number for a float option; its true is none for any.
        if type(value) not in (int, kind):
            raise self._error(f"sampling.{key} must be {kind.__name__}, got {shown(value)}")
        try:
            check_range(key.upper(), value)
        except InvalidRequest as error:
            raise self._error(f"sampling.{error}") from error
        # Only now: an integer outside the range may be beyond all floats.
        number: int | float = kind(value)
        return number


def describe(entry: VoiceEntry) -> dict[str, Any]:
    """The public facts about a voice: names of files, no paths."""
    base = entry.base
    return {
        "name": base.name,
        "language": base.language,
        "text": base.text,
        "references": list(base.references),
        "sampling": dict(base.sampling),
        "lexicon": {language: len(words) for language, words in base.lexicon.items()},
        "gpt": base.gpt.name if base.gpt else None,
        "sovits": base.sovits.name if base.sovits else None,
        "digest": base.digest,
    }
