"""`gsv probe`: does a server speak? For health checks."""

from __future__ import annotations

import dataclasses
import sys
import time

import click

from gsv_client.cli.common import Connection, connection_options, talk
from gsv_client.errors import GsvClientError
from gsv_client.probe import answered_requests, probe_liveness
from gsv_client.probe import probe as ask

TIMEOUT_SECONDS = 10.0
METRICS_SECONDS = 4.0  # that the metrics may take


@click.command()
@click.option("-v", "--voice", metavar="NAME", help="Voice to speak with.  [default: the server's]")
@click.option("--stream", is_flag=True, help="Ask the model that streams.")
@click.option(
    "--liveness",
    metavar="METRICS_URL",
    help="Fail only where starting the server again would help: one that has no voice, or answers "
    "others by its metrics, is well.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all goes well.")
@connection_options
def probe(
    connection: Connection, voice: str | None, stream: bool, liveness: str | None, quiet: bool
) -> None:
    """Let the server speak a syllable. Exit code 0 if it did, 1 if not.

    A server whose waiting line is full is well. --timeout is 10 s here unless it is given.

    \b
    Examples:
      gsv probe --url localhost:8000
      gsv probe --url grpc://localhost:8001 --stream --timeout 5
      gsv probe --url localhost:8000 --liveness http://localhost:8002/metrics
    """
    if liveness is not None and voice is not None:
        raise click.UsageError("--liveness asks in the server's own voice; leave out --voice")
    given = click.get_current_context().get_parameter_source("timeout")
    if given is click.core.ParameterSource.DEFAULT:
        connection = dataclasses.replace(connection, timeout=TIMEOUT_SECONDS)
    started = time.monotonic()
    try:
        with connection.open() as client:
            if liveness is None:
                found = ask(client, voice, stream=stream)
            else:
                found = probe_liveness(
                    client, lambda: answered_requests(liveness, METRICS_SECONDS), stream=stream
                )
    except GsvClientError as error:
        talk(" ".join(str(error).split()))
        sys.exit(1)
    if not quiet:
        talk(f"{client.transport.address}: {found}, after {time.monotonic() - started:.2f} s")
