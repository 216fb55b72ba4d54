"""`gsv gateway`: HTTP for other people's clients, and the page, in front of a Triton server."""

from __future__ import annotations

from pathlib import Path

import click

from gsv_client.cli.common import header_option, talk, timeout_option, with_options
from gsv_client.errors import GsvClientError
from gsv_client.limits import TEXT_LIMIT

EXTRA = 'pip install "gsv-client[gateway]"'
DEFAULT_PORT = 9880  # of GPT-SoVITS' api_v2, so that its clients need no change


def _pairs(_context: object, _parameter: object, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for value, (name, mark, voice) in zip(values, pairs, strict=True):
        if not (name and mark and voice):
            raise click.BadParameter(f"{value!r}: give NAME=VOICE")
    return {name: voice for name, _, voice in pairs}


_where = with_options(
    click.option(
        "--url", envvar="GSV_GATEWAY_TRITON", show_envvar=True, metavar="HOST:PORT",
        help="Triton's gRPC address, also grpcs://…  [default: localhost:8001]",
    ),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535),
        help="Port to listen on; 0: any.",
    ),
)  # fmt: skip
_who = with_options(
    click.option(
        "--keys", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of hashed API keys; whoever has none of them is refused.",
    ),
    click.option(
        "--new-key", metavar="NAME",
        help="Only make a key: the key goes to stdout, its line for the file to stderr.",
    ),
    click.option(
        "--open", "is_open", is_flag=True,
        help="Let everybody in on an address that others can reach.",
    ),
    click.option(
        "--cors", multiple=True, metavar="ORIGIN",
        help="Pages of this origin may call (https://chat.example.org, or *). Repeatable.",
    ),
)  # fmt: skip
_what = with_options(
    click.option(
        "--default-voice", metavar="VOICE",
        help="Of requests that name none.  [default: the server's]",
    ),
    click.option(
        "--alias", "aliases", multiple=True, callback=_pairs, metavar="NAME=VOICE",
        help="Speak with VOICE when a client asks for NAME, such as alloy=alice. Repeatable.",
    ),
    click.option(
        "--voices", type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Let callers add voices to this folder, the server's (needs the backend package).",
    ),
    click.option(
        "--text-limit", default=TEXT_LIMIT, show_default=True, type=click.IntRange(min=1),
        help="Characters of a request.",
    ),
    click.option(
        "--body-limit", default=16, show_default=True, type=click.IntRange(min=1),
        help="MiB of a request.",
    ),
    click.option(
        "--concurrency", default=256, show_default=True, type=click.IntRange(min=1),
        help="Requests at once.",
    ),
    click.option(
        "--per-key", default=32, show_default=True, type=click.IntRange(min=1),
        help="Requests at once of one key.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No line for each request."),
)  # fmt: skip


@click.command()
@_where
@_who
@_what
@timeout_option
@header_option
def gateway(
    url: str | None,
    host: str,
    port: int,
    keys: Path | None,
    new_key: str | None,
    is_open: bool,
    cors: tuple[str, ...],
    default_voice: str | None,
    aliases: dict[str, str],
    voices: Path | None,
    text_limit: int,
    body_limit: int,
    concurrency: int,
    per_key: int,
    quiet: bool,
    timeout: float,
    headers: dict[str, str],
) -> None:
    """Serve OpenAI's speech API, GPT-SoVITS' api_v2, our own, and a page.

    Beside any Triton server that serves this project's models; start as many as you like.

    \b
    Examples:
      gsv gateway --url localhost:8001
      gsv gateway --new-key alice >alice.key 2>>gateway.keys
      gsv gateway --url speech:8001 --host 0.0.0.0 --keys gateway.keys --alias alloy=alice
    """
    try:
        from gsv_client.gateway.keys import new_key as make_key
        from gsv_client.gateway.serving import serve
        from gsv_client.gateway.settings import MIB, Settings, is_loopback
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the gateway needs the package {error.name!r}, which is not installed; {EXTRA}"
        ) from error
    if new_key is not None:
        key, line = make_key(new_key)
        click.echo(key)
        talk(line)
        return
    local = is_loopback(host)
    if not (local or keys or is_open):
        raise click.UsageError(
            f"--host {host} can be reached by others: give --keys FILE (make one with --new-key "
            "NAME), or --open to let everybody in."
        )
    settings = Settings(
        keys=keys, local=local, cors=cors, default_voice=default_voice, aliases=aliases,
        voices=voices, most_text=text_limit, most_body=body_limit * MIB,
        concurrency=concurrency, per_key=per_key,
    )  # fmt: skip
    try:
        serve(url, host, port, settings, timeout=timeout, headers=headers, quiet=quiet)
    except OSError as error:
        raise GsvClientError(f"{host}:{port}: {error.strerror or error}") from error
