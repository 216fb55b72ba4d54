"""Adds to a wheel what stands at the repository's root: models' configuration, the sample voice.

An editable install finds them where they are (``gsv.repository``); everything else is declared in
pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent
CARRIED = {"model_repository": "_model_repository", "voices": "_voices"}


class BuildWithRepository(build_py):
    """The usual build, then the folders of the root as ``gsv/_NAME``."""

    def run(self) -> None:
        """Build; an editable install copies nothing."""
        super().run()
        if self.editable_mode:
            return
        for source, target in CARRIED.items():
            if (ROOT / source).is_dir():
                place = Path(self.build_lib) / "gsv" / target
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithRepository})
