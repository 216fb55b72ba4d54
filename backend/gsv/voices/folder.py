"""The voice folder: checked again at each lookup, so that a change is live without a restart."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gsv.errors import InvalidRequest, VoiceError
from gsv.voices.voice import (
    NAME_PATTERN,
    VOICE_FILE,
    Voice,
    VoiceEntry,
    load_entry,
    signature,
)

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
# Replacing a folder takes two renames; between them it is not there.
_REPLACING_SECONDS = 0.05
_READ_ATTEMPTS = 3
_LISTED = 20  # names in one message
_REASON_LIMIT = 200  # characters of an unexpected error in one message


@dataclasses.dataclass
class _Known:
    """What was found in one voice's folder, and when it was looked at; None: not yet, or gone."""

    entry: VoiceEntry | VoiceError | None = None
    looked: float = 0.0
    # One for each voice: a folder that takes long to read holds up its own requests only.
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class VoiceFolder:
    """Reads voices by name from one folder; may be used from several threads.

    A lookup compares the times and sizes of the voice's files at most once in ``CHECK_SECONDS``
    and reads them again when they differ. No watcher runs, so nothing can die unnoticed, and
    network mounts without change events work as well.

    Args:
        folder: with a folder a voice in it; need not exist yet.
        default: name of the voice for requests that give none; may have a ``/REFERENCE``.
        clock: seconds.
    """

    def __init__(
        self, folder: Path, default: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.default = default
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._listed = (0.0, "")

    def __contains__(self, name: str) -> bool:
        """Whether there is a voice of that name now, broken or not."""
        known = NAME_PATTERN.fullmatch(name) is not None
        return known and os.path.isfile(self.folder / name / VOICE_FILE)

    def names(self) -> list[str]:
        """Names of all voices, sorted, broken ones included."""
        return [name for name in self._folders() if NAME_PATTERN.fullmatch(name)]

    def get(self, name: str, *, fresh: bool = False) -> Voice:
        """The voice called ``name``, or the default voice for an empty name.

        Args:
            name: ``VOICE``, ``VOICE/REFERENCE``, or either with ``@DIGEST``
                (:attr:`Voice.pinned`), which accepts only this content.
            fresh: look at the files now, however short ago that was done.

        Raises:
            InvalidRequest: there is none of that name.
            VoiceError: its folder is broken, its content is another than the digest says, or the
                default voice is missing.
        """
        if not name and self.default:
            try:
                return self.get(self.default, fresh=fresh)
            except InvalidRequest as error:  # the operator's mistake, not the caller's
                raise VoiceError(
                    f"voice {self.default}: is this server's default, but not in its voice folder; "
                    f"name another one with VOICE: {self.listing()}"
                ) from error
        if not name:
            raise InvalidRequest(
                "VOICE: none given, and this server has no default voice; "
                f"allowed: {self.listing()}, or REFERENCE_AUDIO with REFERENCE_TEXT"
            )
        plain, _, digest = name.partition("@")
        voice = self._choose(plain, self._entry(plain, fresh))
        if digest and voice.digest != digest and not fresh:
            voice = self._choose(plain, self._entry(plain, True))
        if digest and voice.digest != digest:
            raise VoiceError(
                f"voice {plain}: was changed while the request was under way; send it again"
            )
        return voice

    def scan(self) -> tuple[list[VoiceEntry], list[VoiceError]]:
        """All voices, and what is wrong with those that can't be used."""
        entries, errors = [], []
        for name in self._folders():
            found = self._look(name, fresh=False)
            if isinstance(found, VoiceEntry):
                entries.append(found)
            elif found is not None:
                errors.append(found)
        return entries, errors

    def _folders(self) -> list[str]:
        """Names of voices, broken or not; folders whose name begins with a dot are unfinished."""
        try:
            names = [path.name for path in self.folder.iterdir() if path.name[:1] != "."]
        except OSError:
            return []
        return sorted(name for name in names if os.path.isfile(self.folder / name / VOICE_FILE))

    def _choose(self, name: str, entry: VoiceEntry) -> Voice:
        _, slash, reference = name.partition("/")
        if not slash:
            return entry.base
        if reference not in entry.others:
            allowed = [entry.base.name, *(voice.name for voice in entry.others.values())]
            raise InvalidRequest.value("VOICE", name, _shortened(allowed))
        return entry.others[reference]

    def _entry(self, name: str, fresh: bool) -> VoiceEntry:
        folder = name.partition("/")[0]
        found = self._look(folder, fresh) if NAME_PATTERN.fullmatch(folder) else None
        if found is None:
            raise InvalidRequest.value("VOICE", name, self.listing())
        if isinstance(found, VoiceError):
            raise VoiceError(str(found))  # a new one: a raised error keeps its frames alive
        return found

    def _look(self, name: str, fresh: bool) -> VoiceEntry | VoiceError | None:
        """What the folder ``name`` holds now; None when there is no such voice."""
        folder = self.folder / name
        with self._lock:
            known = self._known.get(name)
        if known is None:
            if not self._exists(folder, patient=fresh):
                return None
            with self._lock:
                known = self._known.setdefault(name, _Known())
        with known.lock:
            now = self._clock()
            if known.entry is not None and not fresh and now - known.looked < CHECK_SECONDS:
                return known.entry
            if not self._exists(folder, patient=known.entry is not None or fresh):
                known.entry = None
                self._forget(name)
                return None
            # A broken voice may be waiting for a file whose name isn't known here: always read.
            if not (
                isinstance(known.entry, VoiceEntry)
                and signature(folder, known.entry) == known.entry.signature
            ):
                known.entry = self._read(folder, known.entry)
                if known.entry is None:
                    self._forget(name)
                    return None
            known.looked = now
            return known.entry

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)

    def _exists(self, folder: Path, *, patient: bool) -> bool:
        """Whether it is there; a voice that has just been seen may be about to be replaced."""
        if os.path.isfile(folder / VOICE_FILE):
            return True
        if patient:
            time.sleep(_REPLACING_SECONDS)
        return patient and os.path.isfile(folder / VOICE_FILE)

    def _read(
        self, folder: Path, known: VoiceEntry | VoiceError | None
    ) -> VoiceEntry | VoiceError | None:
        """The folder's content at one moment, though it may be replaced while it is read.

        None when it was removed while it was read.
        """
        was_fine = isinstance(known, VoiceEntry)
        for attempt in range(_READ_ATTEMPTS):
            if attempt:
                time.sleep(_REPLACING_SECONDS)
            before = _identity(folder)
            found = _try_to_read(folder)
            if isinstance(found, VoiceEntry) and signature(folder, found) == found.signature:
                return found
            same_folder = before is not None and _identity(folder) == before
            if isinstance(found, VoiceError) and same_folder and not was_fine:
                break
        if not os.path.isfile(folder / VOICE_FILE):
            return None
        text = f"voice {folder.name}: its files change all the time"
        if isinstance(found, VoiceError):
            text = str(found)
        # Names of files may hold bytes that are no UTF-8; the list of voices and the log may not.
        error = VoiceError(text.encode("utf-8", "backslashreplace").decode("utf-8"))
        if known is None or str(known) != str(error):
            logger.warning("%s; the voice is skipped", error)
        return error

    def listing(self) -> str:
        """Names for a message, not all of many; kept for a moment, since a big folder takes long
        to list."""
        listed, text = self._listed
        if not text or self._clock() - listed >= CHECK_SECONDS:
            text = _shortened(self.names()) or "no voice (the voice folder is empty)"
            self._listed = self._clock(), text
        return text


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder has this name now; another one after it was replaced, None after removal."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _try_to_read(folder: Path) -> VoiceEntry | VoiceError:
    try:
        return load_entry(folder)
    except VoiceError as error:
        return error
    except OSError as error:  # a file went away between two looks at it
        return VoiceError(f"voice {folder.name}: {error}")
    except Exception as error:  # whatever it is, the other voices are listed and served
        why = f"{type(error).__name__}: {str(error)[:_REASON_LIMIT]}"
        return VoiceError(f"voice {folder.name}: can't be read: {why}")


def _shortened(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
