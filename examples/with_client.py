"""Our client: whole answers, streams, an own recording, errors.

pip install ./client
python examples/with_client.py --url localhost:8000
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

from gsv_client import Client, GsvClientError, InvalidRequest, SpeechOptions, WavWriter


def main() -> None:
    """Parse the command line, then one thing after the other."""
    parser = argparse.ArgumentParser(description="Speak in several ways.")
    parser.add_argument("--url", help="default: localhost:8000; grpc://localhost:8001 works too")
    parser.add_argument("--voice", help="default: the server's")
    parser.add_argument("--reference", help="a recording of 3 to 10 s to speak like")
    parser.add_argument("--reference-text", help="what is said in it")
    given = parser.parse_args()
    try:
        with Client(given.url) as client:
            speak(client, SpeechOptions(voice=given.voice, seed=7))
            if given.reference:
                own = SpeechOptions(
                    reference=given.reference, reference_text=given.reference_text, seed=7
                )
                client.say("This is your own voice.", own).save("own.wav")
    except GsvClientError as error:
        sys.exit(str(error))


def speak(client: Client, options: SpeechOptions) -> None:
    """A whole answer, a stream, and what a mistake looks like."""
    audio = client.say("Hello there.", options)
    audio.save("hello.wav")
    print(f"hello.wav: {audio.duration:.2f} s at {audio.rate} Hz")  # noqa: T201

    started = time.monotonic()
    with WavWriter("story.wav") as file:
        for chunk in client.stream("A story. It has two sentences.", options):
            file.write(chunk)  # the file can be played at any moment
            print(f"{time.monotonic() - started:5.2f} s: sentence {chunk.sentence}")  # noqa: T201

    try:
        client.say("Too fast.", dataclasses.replace(options, speed=9.0))
    except InvalidRequest as error:
        print(f"refused: {error}")  # noqa: T201


if __name__ == "__main__":
    main()
