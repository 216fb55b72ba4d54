"""The page behind `make page`: the demo voice, Triton and the gateway in one command.

    .venv/bin/python tools/page.py [--size voice|tiny|full] [--port 9880] [--add-voices]

Prepares a model repository in build/ (once), starts the embedded server on free ports and the
gateway before it, prints the page's address, and serves until Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from demo_server import SIZES, prepared, say, served, voice_of

from gsv.errors import GsvError
from gsv_client import GsvClientError
from gsv_client.base_client import DEFAULT_TIMEOUT
from gsv_client.cli.gateway import DEFAULT_PORT
from gsv_client.cli.plugins import EXIT_INTERRUPTED
from gsv_client.gateway import Settings
from gsv_client.gateway.serving import serve

HOST = "127.0.0.1"


@click.command()
@click.option("--size", type=click.Choice(SIZES), default="voice", show_default=True)
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="0: any.")
@click.option("--add-voices", is_flag=True, help="Let the page add voices to the demo's folder.")
def main(size: str, port: int, add_voices: bool) -> None:
    """Serve demo weights with the gateway and its page."""
    repository = prepared(size)
    settings = Settings(
        local=True,
        default_voice=voice_of(size),
        voices=_voices_of(repository) if add_voices else None,
    )
    try:
        with served(repository) as server:
            serve(
                server.grpc_url, HOST, port, settings,
                timeout=DEFAULT_TIMEOUT, headers={}, on_ready=_tell,
            )  # fmt: skip
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (GsvError, GsvClientError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{HOST}:{port}: {error.strerror or error}") from error


def _voices_of(repository: Path) -> Path:
    return repository.parent / "voices"


def _tell(address: str) -> None:
    click.echo(f"The page: {address}  (Ctrl-C ends it; the OpenAI address is {address}v1)")
    say('try: curl -d \'{"input": "Hello."}\' ' + f"{address}v1/audio/speech -o hello.mp3")


if __name__ == "__main__":
    main()
