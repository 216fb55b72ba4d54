"""`gsv say`: speak a text into a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import BinaryIO

import click

from gsv_client.answers import Chunk
from gsv_client.audio import FORMATS, Audio, format_of
from gsv_client.cli.common import (
    Connection,
    connection_options,
    language_option,
    sampling_options,
    speech_options,
    talk,
    voice_options,
)
from gsv_client.cli.stdin import text_pieces
from gsv_client.errors import GsvClientError, InvalidRequest
from gsv_client.options import SpeechOptions
from gsv_client.wav import WavWriter


@click.command()
@click.argument("text", required=False)
@click.option(
    "-o",
    "--output",
    default="speech.wav",
    show_default=True,
    metavar="FILE",
    help="Where the audio goes; - is stdout.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    help="raw is 16-bit PCM without a header.  [default: by the file's suffix, wav on stdout]",
)
@click.option("--stream", is_flag=True, help="Write the audio while it is being made.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all goes well.")
@speech_options(language_option, voice_options, sampling_options)
@click.option("--request-id", default="", help="Appears in the server's log.")
@connection_options
def say(
    text: str | None,
    output: str,
    format_name: str | None,
    stream: bool,
    quiet: bool,
    request_id: str,
    options: SpeechOptions,
    connection: Connection,
) -> None:
    """Speak TEXT through a running server.

    Without TEXT, or with -, the text comes from stdin; with --stream each of its sentences is
    spoken as soon as it is complete.

    \b
    Examples:
      gsv say "Hello there." --voice demo -o hello.wav
      gsv say "你好。" -r me.wav --reference-text "What I say in it." -o nihao.flac
      gsv say --stream "A long story." -o - | aplay
      llm "Tell me a story" | gsv say --stream -o - | ffplay -nodisp -autoexit -
    """
    chosen = format_name or ("wav" if output == "-" else format_of(output))
    target: str | BinaryIO = _stdout() if output == "-" else output
    with connection.open() as client:
        if not stream:
            begin = time.perf_counter()
            audio = client.say(_text(text), options, request_id=request_id)
            seconds = time.perf_counter() - begin
            audio.save(target, chosen)
            message = _facts(audio, seconds)
        elif _from_stdin(text):
            pieces = text_pieces()
            message = _write(
                client.stream_text(pieces, options, request_id=request_id), target, chosen
            )
        else:
            message = _write(
                client.stream(text or "", options, request_id=request_id), target, chosen
            )
    if not isinstance(target, str):
        target.flush()
    if not quiet:
        talk(f"{_name(target)}: {message}")


def _write(chunks: Iterable[Chunk], target: str | BinaryIO, format_name: str) -> str:
    """Write a stream as it comes; returns its figures in words."""
    begin, first, rate = time.perf_counter(), None, 0
    # A pipe can't be rewound, and a file that a shell appends to must not be.
    with WavWriter(target, format_name, in_place=isinstance(target, str)) as writer:
        try:
            for chunk in chunks:
                writer.write(chunk)
                first, rate = first or time.perf_counter() - begin, chunk.rate
        except GsvClientError as error:
            if first is None:
                raise
            kept = f"{_name(target)} holds the first {writer.duration:.2f} s"
            raise type(error)(f"{error}; {kept}") from error
        if first is None:
            raise InvalidRequest("TEXT: empty; allowed: any text with something to say in it")
        seconds = time.perf_counter() - begin
        return (
            f"{writer.duration:.2f} s of audio at {rate} Hz in {seconds:.2f} s, "
            f"first audio after {first:.2f} s"
        )


def _facts(audio: Audio, seconds: float) -> str:
    factor = f", real-time factor {seconds / audio.duration:.2f}" if audio.duration else ""
    return f"{audio.duration:.2f} s of audio at {audio.rate} Hz in {seconds:.2f} s{factor}"


def _name(target: str | BinaryIO) -> str:
    return target if isinstance(target, str) else "stdout"


def _stdout() -> BinaryIO:
    if sys.stdout.isatty():
        raise click.UsageError(
            "-o - writes audio, and stdout is a terminal: pipe it, or name a file."
        )
    return sys.stdout.buffer


def _from_stdin(text: str | None) -> bool:
    if text is None and sys.stdin.isatty():
        raise click.UsageError("Missing argument 'TEXT': give it, or pipe a text in.")
    return text is None or text == "-"


def _text(text: str | None) -> str:
    return "".join(text_pieces()) if _from_stdin(text) else text or ""
