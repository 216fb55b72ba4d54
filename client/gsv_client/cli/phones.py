"""`gsv phones`: how the server reads a text."""

from __future__ import annotations

import shutil
import sys

import click

from gsv_client.answers import Analysis, SegmentAnalysis
from gsv_client.cli.common import (
    Connection,
    connection_options,
    display_width,
    json_option,
    language_option,
    pad,
    print_json,
    split_option,
)
from gsv_client.cli.stdin import text_pieces

INDENT = "   "


@click.command(short_help="Show how a text is read and pronounced.")
@click.argument("text")
@language_option
@split_option
@click.option("-v", "--voice", metavar="NAME", help="Use this voice's lexicon.")
@json_option
@connection_options
def phones(
    text: str,
    language: str | None,
    split_method: str | None,
    voice: str | None,
    as_json: bool,
    connection: Connection,
) -> None:
    """Show how TEXT is split, normalised and pronounced; nothing is spoken.

    Under each segment stand what was changed before it was read and why, its phonemes and their
    ids; under the sentence, characters that have no reading. - reads the text from stdin.

    \b
    Examples:
      gsv phones "Dr. Smith paid $3.50."
      gsv phones "我喜欢 Python。" --language zh
      gsv phones "重庆" --json | jq .sentences[0].segments[0].phonemes
    """
    if text == "-":
        text = "".join(text_pieces())
    with connection.open() as client:
        analysis = client.phones(text, language, split_method=split_method, voice=voice)
    if as_json:
        print_json(analysis.as_dict())
    else:
        _print(analysis)


def _print(analysis: Analysis) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    for number, sentence in enumerate(analysis.sentences, start=1):
        pause = "" if sentence.pause_after is None else f"  (pause {sentence.pause_after:g} s)"
        click.echo(f"{number}  {sentence.text.strip()}{pause}")
        for segment in sentence.segments:
            click.echo(f"{INDENT}{segment.language}  {segment.text} → {segment.normalized}")
            for change in segment.changes:
                spoken = shown(change.spoken) if change.spoken else "(nothing)"
                click.echo(f"{2 * INDENT}{shown(change.written)} → {spoken}: {change.reason}")
            for line in _phoneme_lines(segment, width - 2 * len(INDENT)):
                click.echo(2 * INDENT + line)
        if sentence.unread:
            click.echo(f"{INDENT}not read: {' '.join(map(shown, sentence.unread))}")


def shown(text: str) -> str:
    """A text on one line, with what can't be seen by its code point."""
    return "".join(
        char if char == " " or char.isprintable() else f"<U+{ord(char):04X}>" for char in text
    )


def _phoneme_lines(segment: SegmentAnalysis, width: int) -> list[str]:
    """Pairs of lines, phonemes over ids, no wider than `width` columns."""
    lines, upper, lower = [], "", ""
    for phoneme, number in zip(segment.phonemes, segment.ids, strict=True):
        cell = max(display_width(phoneme), len(str(number))) + 1
        if upper and display_width(upper) + cell > width:
            lines += [upper.rstrip(), lower.rstrip()]
            upper = lower = ""
        upper, lower = upper + pad(phoneme, cell), lower + pad(str(number), cell)
    return [*lines, upper.rstrip(), lower.rstrip()] if upper else lines
