"""`gsv doctor`: look at a server, and with the backend installed at files too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import click

from gsv_client.cli.common import (
    Connection,
    connection_options,
    json_option,
    print_json,
    speech_options,
    voice_options,
)
from gsv_client.cli.plugins import BACKEND_HINT, points
from gsv_client.doctor import Check, Finding, check_installation, check_server
from gsv_client.options import SpeechOptions

ENTRY_POINTS = "gsv.doctor"
EXIT_FOUND_ERRORS = 1


@click.command()
@connection_options
@click.option("--speak", is_flag=True, help="Also let the server speak a word and look at it.")
@speech_options(voice_options)
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look at this model repository (needs the backend package).",
)
@click.option(
    "--voices",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Look at this voice folder (needs the backend package).",
)
@json_option
def doctor(
    connection: Connection,
    options: SpeechOptions,
    speak: bool,
    repository: Path | None,
    voices: Path | None,
    as_json: bool,
) -> None:
    """Say what is wrong and what to do. Exit code 1 if anything is in error.

    Without --repository and --voices it looks at the server, by default the local one.

    \b
    Examples:
      gsv doctor --url localhost:8000 --speak
      gsv doctor --repository models --voices voices
      gsv doctor --json | jq '.[] | select(.level != "ok")'
    """
    findings = list(check_installation())
    findings += _check_files(repository, voices)
    if connection.url or speak or not (repository or voices):
        with connection.open() as client:
            findings += check_server(client, options if speak else None)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.level == "error" for finding in findings):
        raise click.exceptions.Exit(EXIT_FOUND_ERRORS)


def _check_files(repository: Path | None, voices: Path | None) -> Iterator[Finding]:
    plugged = points(ENTRY_POINTS)
    if not plugged and (repository or voices):
        message = "--repository and --voices need the backend package"
        yield Finding("error", "backend", message, BACKEND_HINT)
    for point in plugged:
        try:
            check: Check = point.load()
            yield from check(repository, voices)
        except Exception as error:  # one check's fault must not hide what the others find
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding("error", point.name, f"the check itself failed: {reason}", "report it")


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        colour = {"ok": "green", "warning": "yellow", "error": "red"}[finding.level]
        mark = click.style(f"{finding.level:<8}", fg=colour)
        click.echo(f"{mark} {finding.subject:<{width}}  {finding.message}")
        if finding.advice:
            click.echo(f"{'':<9}{'':<{width}}  → {finding.advice}")
