"""Commands loaded when they are needed, from this package or another; errors as one line."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from gsv_client.errors import GsvClientError

BACKEND_HINT = "install the backend package beside the client: pip install ./backend"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_PIPE = 141  # 128 + SIGPIPE


class GsvGroup(click.Group):
    """A group whose commands are imported on use.

    Args:
        own: name → `module:attribute` of this package's commands.
        of_the_backend: name → short help of commands that another package brings.
        entry_points: the entry-point group (name → click.Command) where they are looked for.
    """

    def __init__(
        self,
        *args: Any,
        own: dict[str, str] | None = None,
        of_the_backend: dict[str, str] | None = None,
        entry_points: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._own = own or {}
        self._of_the_backend = of_the_backend or {}
        self._entry_points = entry_points

    def list_commands(self, ctx: click.Context) -> list[str]:
        plugged = {point.name for point in points(self._entry_points)}
        first = [*self._own, *super().list_commands(ctx)]
        others = sorted((plugged | set(self._of_the_backend)) - set(first))
        return [*first, *others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._own:
            module, attribute = self._own[cmd_name].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        known = super().get_command(ctx, cmd_name)
        if known is not None:
            return known
        for point in points(self._entry_points):
            if point.name == cmd_name:
                return plugged_command(point)
        if cmd_name in self._of_the_backend:
            return _absent(cmd_name, self._of_the_backend[cmd_name])
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GsvClientError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except BrokenPipeError as error:
            # The reader of our output has closed the pipe. Python may complain again when it
            # flushes at exit (its documentation's "note on SIGPIPE").
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_PIPE) from error
        except KeyboardInterrupt as error:
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from error


def points(group: str) -> list[EntryPoint]:
    """Entry points of a group; of two of one name the first on the path, as with modules."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return list(found.values())


def plugged_command(point: EntryPoint) -> click.Command:
    """The command behind an entry point, or one that says why it can't be loaded."""
    try:
        command = point.load()
    except Exception as error:  # another package's fault must not take this one's commands away
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _refusing(point.name, f"can't be loaded from {point.value}: {reason}")
    if not isinstance(command, click.Command):
        return _refusing(point.name, f"can't be loaded: {point.value} is not a click command")
    return command


def _absent(name: str, short_help: str) -> click.Command:
    why = f"belongs to the backend, which is not installed here; {BACKEND_HINT}"
    command = _refusing(name, why)
    command.short_help = f"{short_help} (needs the backend package)"
    return command


def _refusing(name: str, why: str) -> click.Command:
    """A command that only says why it can't be loaded, whatever its arguments."""

    @click.pass_context
    def refuse(ctx: click.Context, /, **_: Any) -> None:
        raise click.ClickException(f"`{ctx.command_path}` {why}")

    return click.Command(
        name,
        callback=refuse,
        help=f"This command {why}.",
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
    )
