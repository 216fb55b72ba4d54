"""`gsv probe`: does a server speak? For health checks."""

from __future__ import annotations

import dataclasses
import sys
import time

import click

from gsv_client.cli.common import Connection, connection_options, talk
from gsv_client.errors import GsvClientError
from gsv_client.probe import probe as ask

TIMEOUT_SECONDS = 10.0


@click.command()
@click.option("-v", "--voice", metavar="NAME", help="Voice to speak with.  [default: the server's]")
@click.option("--stream", is_flag=True, help="Ask the model that streams.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all goes well.")
@connection_options
def probe(connection: Connection, voice: str | None, stream: bool, quiet: bool) -> None:
    """Let the server speak a syllable. Exit code 0 if it did, 1 if not.

    A server whose waiting line is full is well. --timeout is 10 s here unless it is given.

    \b
    Examples:
      gsv probe --url localhost:8000
      gsv probe --url grpc://localhost:8001 --stream --timeout 5
    """
    given = click.get_current_context().get_parameter_source("timeout")
    if given is click.core.ParameterSource.DEFAULT:
        connection = dataclasses.replace(connection, timeout=TIMEOUT_SECONDS)
    started = time.monotonic()
    try:
        with connection.open() as client:
            found = ask(client, voice, stream=stream)
    except GsvClientError as error:
        talk(" ".join(str(error).split()))
        sys.exit(1)
    if not quiet:
        talk(f"{client.transport.address}: {found}, after {time.monotonic() - started:.2f} s")
