"""API keys: a file of names and hashes, so that who reads the file can't use it.

A key is 256 random bits. Nobody guesses those, so a plain SHA-256 is enough where a password
would need a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from pathlib import Path

from gsv_client.errors import InvalidRequest

logger = logging.getLogger("gsv_client.gateway")
PREFIX = "gsv-"
LOOK_AGAIN_SECONDS = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LINE = re.compile(rf"({_NAME.pattern})[ \t]+([0-9a-f]{{64}})")


def new_key(name: str) -> tuple[str, str]:
    """A fresh key, and the line of the file that lets it in.

    Raises:
        InvalidRequest: the name can't stand in the file.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest.value(
            "name of the key", name, "letters, digits, '_', '.', '-', up to 64 characters"
        )
    key = PREFIX + secrets.token_urlsafe(32)
    return key, f"{name} {_hash(key)}"


class KeyRing:
    """The keys of a file; a change of the file counts within a second.

    While a changed file can't be read, the keys from before it stay, and the log says why.

    Args:
        path: lines of `NAME HASH`; empty lines and what follows a `#` are passed over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = self._read()
        self._stamp = self._file_stamp()
        self._looked = time.monotonic()

    def name_of(self, key: str) -> str | None:
        """Whose key that is, or None. It takes equally long for every wrong key."""
        self._look_again()
        given, found = _hash(key), None
        for name, hashed in self._keys:
            if hmac.compare_digest(given, hashed):
                found = name
        return found

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN_SECONDS:
            return
        self._looked = now
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
        except InvalidRequest as error:
            logger.error("%s; the keys from before this change stay", error)

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> list[tuple[str, str]]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InvalidRequest(f"{self._path}: can't be read: {reason}") from error
        keys = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            match = _LINE.fullmatch(text)
            if match:
                keys.append((match[1], match[2]))
            elif text:
                raise InvalidRequest(
                    f"{self._path}: line {number} is not `NAME HASH`; make one with "
                    "`gsv gateway --new-key NAME`"
                )
        return keys


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
