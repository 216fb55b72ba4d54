"""`gsv voices`: the voices of a server; with the backend installed, also those of a folder."""

from __future__ import annotations

import inspect
from typing import Any

import click

from gsv_client.answers import Voice
from gsv_client.cli.common import (
    Connection,
    connection_options,
    json_option,
    print_json,
    print_table,
    talk,
)
from gsv_client.cli.plugins import GsvGroup, plugged_command, points
from gsv_client.errors import InvalidRequest

ENTRY_POINTS = "gsv.voices"
OF_THE_BACKEND = {
    "add": "Check a recording and its checkpoints, and add them as a voice.",
    "remove": "Take a voice out of the folder.",
}
ASKS_A_SERVER = ("url", "protocol")  # an option that makes `list` and `show` ask a server


class VoicesGroup(GsvGroup):
    """`list` and `show` exist twice, for a server and for a folder: one command serves both."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        for point in points(ENTRY_POINTS):
            if command is not None and point.name == cmd_name and cmd_name in self.commands:
                return _both(command, plugged_command(point))
        return command


@click.group(cls=VoicesGroup, of_the_backend=OF_THE_BACKEND, entry_points=ENTRY_POINTS)
def voices() -> None:
    """List and keep voices.

    \b
    Examples:
      gsv voices list --url localhost:8000
      gsv voices show demo --url localhost:8000 --json
    """


@voices.command("list")
@connection_options
@json_option
def list_voices(connection: Connection, as_json: bool) -> None:
    """List the voices that a server offers; * marks its default.

    \b
    Examples:
      gsv voices list
      gsv voices list --url grpc://speech:8001 --json
    """
    with connection.open() as client:
        found = client.voices()
    for message in found.broken:
        talk(f"broken: {message}")
    if as_json:
        print_json([_plain(voice) for voice in found])
        return
    rows = [
        (f"{voice.name}{' *' if voice.default else ''}", voice.language or "",
         ", ".join(voice.references), voice.text or "")
        for voice in found
    ]  # fmt: skip
    print_table(("NAME", "LANGUAGE", "REFERENCES", "TEXT"), rows)


@voices.command("show")
@click.argument("name")
@connection_options
@json_option
def show_voice(name: str, connection: Connection, as_json: bool) -> None:
    """Show all that a server tells about the voice NAME.

    \b
    Examples:
      gsv voices show demo
      gsv voices show demo --url localhost:8000 --json
    """
    with connection.open() as client:
        found = {voice.name: voice for voice in client.voices()}
    if name not in found:
        raise InvalidRequest.value(
            "NAME", name, ", ".join(sorted(found)) or "none, no voices there"
        )
    if as_json:
        print_json(_plain(found[name]))
        return
    for key, value in _plain(found[name]).items():
        click.echo(f"{key}: {value}")


def _plain(voice: Voice) -> dict[str, Any]:
    return {**voice.details, "name": voice.name, "default": voice.default}


def _both(of_server: click.Command, of_folder: click.Command) -> click.Command:
    """One command with the options of both: --url asks a server, without it the folder is read."""
    ours = {parameter.name for parameter in of_server.params}
    theirs = {parameter.name for parameter in of_folder.params}

    @click.pass_context
    def run(ctx: click.Context, /, **values: Any) -> Any:
        given = (ctx.get_parameter_source(name) for name in ASKS_A_SERVER)
        asked = any(source is click.core.ParameterSource.COMMANDLINE for source in given)
        chosen, names = (of_server, ours) if asked else (of_folder, theirs)
        return ctx.invoke(chosen, **{name: values[name] for name in names if name in values})

    extra = [parameter for parameter in of_server.params if parameter.name not in theirs]
    help_text = inspect.cleandoc(of_folder.help or "")
    about = f"{help_text}\n\nWith --url it asks that server instead of a folder."
    return click.Command(
        of_folder.name, callback=run, params=[*of_folder.params, *extra], help=about
    )
