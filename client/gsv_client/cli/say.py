"""`gsv say`: speak a text into a file or a pipe."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from gsv_client.answers import Chunk
from gsv_client.audio import FORMATS, Audio, format_of
from gsv_client.captions import captions
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
from gsv_client.errors import GsvClientError, InvalidRequest, audio_errors
from gsv_client.options import SpeechOptions
from gsv_client.spoken import SentenceReport, WordTime
from gsv_client.wav import WavWriter, check_growing

WRITABLE = click.Path(dir_okay=False, path_type=Path)


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
@click.option("--srt", type=WRITABLE, help="Captions as SubRip.")
@click.option("--vtt", type=WRITABLE, help="Captions as WebVTT.")
@click.option(
    "--times", "times_file", type=WRITABLE, help="When each word is spoken, as JSON in seconds."
)
@click.option("--report", is_flag=True, help="Tell how each sentence came about.")
@click.option("--stream", is_flag=True, help="Write the audio while it is being made.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all goes well.")
@speech_options(language_option, voice_options, sampling_options)
@click.option("--request-id", default="", help="Appears in the server's log.")
@connection_options
def say(
    text: str | None,
    output: str,
    format_name: str | None,
    srt: Path | None,
    vtt: Path | None,
    times_file: Path | None,
    report: bool,
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
      gsv say "Read this aloud." -o read.wav --srt read.srt
      gsv say --stream "A long story." -o - | aplay
      llm "Tell me a story" | gsv say --stream -o - | ffplay -nodisp -autoexit -
    """
    chosen = format_name or ("wav" if output == "-" else format_of(output))
    target: str | BinaryIO = _stdout() if output == "-" else output
    beside = Beside(srt, vtt, times_file, report)
    with connection.open() as client:
        if not stream:
            begin = time.perf_counter()
            audio = client.say(
                _text(text), options, request_id=request_id, times=beside.times, report=report
            )
            seconds = time.perf_counter() - begin
            audio.save(target, chosen)
            beside.take(audio)
            message = _facts(audio, seconds)
        elif _from_stdin(text):
            if beside.times or report:
                raise click.UsageError(
                    "--srt, --vtt, --times and --report are for one text: give TEXT, or leave "
                    "--stream out."
                )
            pieces = text_pieces()
            message = _write(
                client.stream_text(pieces, options, request_id=request_id), target, chosen
            )
        else:
            chunks = client.stream(
                text or "", options, request_id=request_id, times=beside.times, report=report
            )
            message = _write(beside.followed(chunks), target, chosen)
    if not isinstance(target, str):
        target.flush()
    beside.write()
    if not quiet:
        talk(f"{_name(target)}: {message}")


class Beside:
    """What is told of the speech beside its audio, and where it goes."""

    def __init__(
        self, srt: Path | None, vtt: Path | None, times_file: Path | None, report: bool
    ) -> None:
        self._captions = {"srt": srt, "vtt": vtt}
        self._times_file = times_file
        self._report = report
        self._times: list[WordTime] = []
        self._sentences: list[SentenceReport] = []

    @property
    def times(self) -> bool:
        """Whether times of words are wanted."""
        return any((*self._captions.values(), self._times_file))

    def take(self, audio: Audio) -> None:
        """An answer, or a chunk of one."""
        self._times += audio.times
        self._sentences += audio.report

    def followed(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same chunks, of which each is taken."""
        for chunk in chunks:
            self.take(chunk)
            yield chunk

    def write(self) -> None:
        """Write the files, and tell the report.

        Raises:
            AudioError: a file can't be written.
        """
        for form, path in self._captions.items():
            if path is not None:
                _write_text(path, captions(self._times, form))
        if self._times_file is not None:
            words = [dataclasses.asdict(time) for time in self._times]
            _write_text(self._times_file, json.dumps(words, ensure_ascii=False, indent=2) + "\n")
        for number, sentence in enumerate(self._sentences if self._report else (), start=1):
            talk(f"{number}. {sentence.line()}")


def _write_text(path: Path, text: str) -> None:
    with audio_errors(str(path)):
        path.write_text(text, encoding="utf-8")


def _write(chunks: Iterable[Chunk], target: str | BinaryIO, format_name: str) -> str:
    """Write a stream as it comes; returns its figures in words."""
    check_growing(format_name)
    begin = time.perf_counter()
    # An older file of that name stays as it is until there is something to write.
    chunks = iter(chunks)
    first_chunk = next(chunks, None)
    if first_chunk is None:
        raise InvalidRequest("TEXT: empty; allowed: any text with something to say in it")
    first = time.perf_counter() - begin
    # A pipe can't be rewound, and a file that a shell appends to must not be.
    with WavWriter(target, format_name, in_place=isinstance(target, str)) as writer:
        writer.write(first_chunk)
        try:
            for chunk in chunks:
                writer.write(chunk)
        except GsvClientError as error:
            kept = f"{_name(target)} holds the first {writer.duration:.2f} s"
            raise type(error)(f"{error}; {kept}") from error
        seconds = time.perf_counter() - begin
        return (
            f"{writer.duration:.2f} s of audio at {first_chunk.rate} Hz in {seconds:.2f} s, "
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
