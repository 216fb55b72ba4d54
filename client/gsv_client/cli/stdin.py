"""Text from stdin, in pieces as soon as they are there."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator

from gsv_client.errors import InvalidRequest

READ_BYTES = 4096


def text_pieces() -> Iterator[str]:
    """Stdin as UTF-8.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for data in _byte_pieces():
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"TEXT: stdin is not UTF-8 ({error.reason}); convert it") from error


def _byte_pieces() -> Iterator[bytes]:
    stream = sys.stdin.buffer
    try:
        # Read the descriptor: a thread that waits inside the buffer would hold its lock at exit.
        descriptor = stream.fileno()
    except io.UnsupportedOperation:
        yield stream.read()
        return
    while data := os.read(descriptor, READ_BYTES):
        yield data
