"""A stream into a player, heard while it is being made.

    pip install ./client     # and ffplay (ffmpeg) or aplay (alsa-utils)
    python examples/play.py "A long story." --url grpc://localhost:8001

Another player gets raw 16-bit mono samples at 48 kHz on its stdin:

    --player "play -t raw -r 48k -e s -b 16 -c 1 -"
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import subprocess
import sys

from gsv_client import Client, GsvClientError, WavWriter

RATE = 48_000  # Hz; what the server makes unless told otherwise
PLAYERS = (
    f"ffplay -loglevel error -nodisp -autoexit -f s16le -ar {RATE} -ch_layout mono -",
    f"aplay -q -t raw -f S16_LE -r {RATE} -c 1",
)


def installed_player() -> str:
    """The first of the known players that there is."""
    for command in PLAYERS:
        if shutil.which(command.split()[0]):
            return command
    sys.exit("no player found: install ffmpeg or alsa-utils, or name one with --player")


def main() -> None:
    """Parse the command line, start the player, hand it each chunk."""
    parser = argparse.ArgumentParser(description="Play TEXT while it is being made.")
    parser.add_argument("text")
    parser.add_argument("--url", default="grpc://localhost:8001")
    parser.add_argument("--voice", help="default: the server's")
    parser.add_argument("--player", help="command that plays raw samples from its stdin")
    given = parser.parse_args()
    command = shlex.split(given.player or installed_player())
    with subprocess.Popen(command, stdin=subprocess.PIPE) as player:
        assert player.stdin is not None
        try:
            with (
                Client(given.url) as client,
                client.stream(given.text, voice=given.voice, sample_rate=RATE) as chunks,
                WavWriter(player.stdin, "raw") as pipe,
            ):
                for chunk in chunks:
                    pipe.write(chunk)  # blocks while the player's buffer is full
        except BrokenPipeError:
            sys.stderr.write("the player was closed; the rest is cancelled\n")
        except GsvClientError as error:
            sys.exit(str(error))
        finally:
            with contextlib.suppress(BrokenPipeError):
                player.stdin.close()


if __name__ == "__main__":
    main()
