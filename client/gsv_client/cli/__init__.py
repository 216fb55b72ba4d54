"""The `gsv` command."""

from __future__ import annotations

import click

from gsv_client import __version__
from gsv_client.cli.plugins import GsvGroup

OWN = {
    "say": "gsv_client.cli.say:say",
    "phones": "gsv_client.cli.phones:phones",
    "voices": "gsv_client.cli.voices:voices",
    "doctor": "gsv_client.cli.doctor:doctor",
    "probe": "gsv_client.cli.probe:probe",
    "bench": "gsv_client.cli.bench:bench",
    "gateway": "gsv_client.cli.gateway:gateway",
}
# Commands of the backend package. They are named here so that `gsv` can say what to install where
# that package is missing.
OF_THE_BACKEND = {
    "prepare": "Build a servable model repository from checkpoints.",
    "calibrate": "Measure the bounds of the speech guard for a repository.",
    "serve": "Start Triton on a prepared repository.",
}


@click.group(
    cls=GsvGroup,
    own=OWN,
    of_the_backend=OF_THE_BACKEND,
    entry_points="gsv.commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gsv")
def main() -> None:
    """GPT-SoVITS v4 on NVIDIA Triton: speak, look, measure.

    \b
    Examples:
      gsv say "Hello there." --voice demo -o hello.wav
      gsv say --stream "A long story." -o - | aplay
      gsv doctor --url localhost:8000
    """
