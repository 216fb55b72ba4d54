"""Options that several commands share, and how they print."""

from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from gsv_client.base_client import DEFAULT_TIMEOUT
from gsv_client.client import Client
from gsv_client.limits import LANGUAGES, SAMPLE_RATES, SPLIT_METHODS, described
from gsv_client.options import SpeechOptions

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several click options as one decorator, shown in the order given."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


timeout_option = click.option(
    "--timeout",
    type=float,
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for an answer, or for the next chunk of a stream.",
)


def _headers(_context: Any, _parameter: Any, values: tuple[str, ...]) -> dict[str, str]:
    """Click callback: `NAME:VALUE` pairs as a dict."""
    pairs = [value.partition(":") for value in values]
    for value, (name, colon, _) in zip(values, pairs, strict=True):
        if not (colon and name.strip()):
            raise click.BadParameter(f"{value!r}: give NAME:VALUE")
    return {name.strip(): text.strip() for name, _, text in pairs}


retries_option = click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How often to try again, within --timeout, when the server can't take the request.",
)
header_option = click.option(
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="NAME:VALUE",
    help="Send with every request, such as a proxy or a restricted API wants.",
)
_connection = with_options(
    click.option(
        "--url",
        envvar="GSV_URL",
        show_envvar=True,
        metavar="URL",
        help="Server: host:port, http(s)://… or grpc(s)://…  [default: localhost:8000, or :8001]",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["http", "grpc"]),
        help="Protocol, if the url names none.  [default: http]",
    ),
    timeout_option,
    retries_option,
    header_option,
)


@dataclasses.dataclass(frozen=True)
class Connection:
    """What the connection options say."""

    url: str | None
    protocol: str | None
    timeout: float
    retries: int
    headers: dict[str, str]

    def open(self) -> Client:
        """A client; nothing is sent yet."""
        return Client(
            self.url,
            protocol=self.protocol,
            timeout=self.timeout,
            retries=self.retries,
            headers=self.headers,
        )


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the options that lead to a server, given to the command as `connection`."""

    @functools.wraps(command)
    def with_connection(**values: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Connection)]
        given = {name: values.pop(name) for name in names}
        return command(connection=Connection(**given), **values)

    return _connection(with_connection)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
language_option = click.option(
    "-l", "--language", type=click.Choice(LANGUAGES), help="Language of the text.  [default: auto]"
)
split_option = click.option(
    "--split-method",
    type=click.Choice(SPLIT_METHODS),
    help="How the text is cut into sentences.  [default: cut5]",
)
voice_options = with_options(
    click.option(
        "-v", "--voice", metavar="NAME", help="A voice of the server, see `gsv voices list`."
    ),
    click.option(
        "-r",
        "--reference",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Speak like this recording of 3 to 10 s instead of a voice.",
    ),
    click.option("--reference-text", metavar="TEXT", help="What is said in the reference."),
    click.option(
        "--reference-language", type=click.Choice(LANGUAGES), help="Its language.  [default: auto]"
    ),
)
sampling_options = with_options(
    click.option("--seed", type=int, help="0 or more: the same request gives the same audio."),
    click.option("--speed", type=float, help=described("SPEED")),
    click.option(
        "--sample-steps", type=int, help=f"Flow-matching steps. {described('SAMPLE_STEPS')}"
    ),
    click.option("--top-k", type=int, help=described("TOP_K")),
    click.option("--top-p", type=float, help=described("TOP_P")),
    click.option("--temperature", type=float, help=described("TEMPERATURE")),
    click.option("--repetition-penalty", type=float, help=described("REPETITION_PENALTY")),
    split_option,
    click.option(
        "--pause-seconds",
        type=float,
        help=f"Silence after each sentence, in seconds. {described('PAUSE_SECONDS')}",
    ),
    click.option(
        "--sample-rate",
        type=click.Choice([str(rate) for rate in SAMPLE_RATES]),
        help="Of the answer, in Hz.  [default: 48000]",
    ),
    click.option(
        "--no-guard",
        "guard",
        flag_value=0,
        type=int,
        default=None,
        help="Don't draw a sentence again that loops, falls silent, never ends or ends too early.",
    ),
)


def speech_options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Decorator: options of speech, given to the command as `options`, a SpeechOptions."""

    def decorate(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def with_speech(**values: Any) -> Any:
            names = [f.name for f in dataclasses.fields(SpeechOptions) if f.name in values]
            given = {name: values.pop(name) for name in names}
            return command(options=_speech(given), **values)

        return with_options(*options)(with_speech)

    return decorate


def _speech(values: dict[str, Any]) -> SpeechOptions:
    if values.get("reference") and not values.get("reference_text"):
        raise click.UsageError("--reference needs --reference-text: what is said in the recording.")
    if values.get("reference_text") and not values.get("reference"):
        raise click.UsageError("--reference-text needs --reference: the recording it belongs to.")
    rate = values.get("sample_rate")
    return SpeechOptions(**{**values, "sample_rate": int(rate) if rate else None})


def talk(message: str) -> None:
    """Say something to the person at the terminal; stdout is for results."""
    click.echo(message, err=True)


def print_json(values: Any) -> None:
    """Indented JSON on stdout."""
    click.echo(json.dumps(values, ensure_ascii=False, indent=2))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns aligned by what a terminal shows, wide characters counted as two."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(display_width(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        click.echo(
            "  ".join(pad(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def pad(text: str, width: int) -> str:
    """`text` filled with blanks to `width` columns."""
    return text + " " * (width - display_width(text))


def display_width(text: str) -> int:
    """Columns that a terminal needs for `text`.

    >>> display_width("abc"), display_width("你好")
    (3, 4)
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
