"""Chunks over gRPC as they are made, with nothing but tritonclient.

pip install "tritonclient[grpc]"
python examples/stream_grpc.py "A long story." -o story.wav
"""

from __future__ import annotations

import argparse
import itertools
import queue
import sys
import time
import wave
from collections.abc import Iterator

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

TIMEOUT = 300.0  # seconds to the next chunk


def text_tensor(name: str, value: str) -> triton.InferInput:
    """A text input, [1, 1]."""
    given = triton.InferInput(name, [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[value.encode("utf-8")]], dtype=np.object_))
    return given


def stream(url: str, text: str, voice: str) -> Iterator[tuple[np.ndarray, int, int]]:
    """Samples (float32 [n]), rate and sentence of each chunk; closing it cancels the rest.

    Raises:
        InferenceServerException: the server refused the request or failed.
        queue.Empty: no chunk came in time.
    """
    inputs = [text_tensor("TEXT", text)] + ([text_tensor("VOICE", voice)] if voice else [])
    names = ("AUDIO", "SAMPLE_RATE", "SENTENCE_INDEX")
    outputs = [triton.InferRequestedOutput(name) for name in names]
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    client = triton.InferenceServerClient(url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    finished = False
    try:
        # With an empty last response the end of the stream is told by a flag, not by waiting.
        client.async_stream_infer(
            "gpt_sovits_v4_stream", inputs, outputs=outputs, enable_empty_final_response=True
        )
        while not finished:
            result, error = answers.get(timeout=TIMEOUT)
            if error is not None:
                raise error
            finished = result.get_response().parameters["triton_final_response"].bool_param
            samples = result.as_numpy("AUDIO")
            if samples is not None:
                rate, sentence = (int(result.as_numpy(name)[0, 0]) for name in names[1:])
                yield samples[0], rate, sentence
    finally:
        # Without this the connection's thread keeps the program from ending.
        client.stop_stream(cancel_requests=not finished)
        client.close()


def main() -> None:
    """Parse the command line, stream into a WAV file."""
    parser = argparse.ArgumentParser(description="Stream TEXT over gRPC into a WAV file.")
    parser.add_argument("text")
    parser.add_argument("--url", default="localhost:8001", help="host:port of Triton's gRPC")
    parser.add_argument("--voice", default="", help="default: the server's")
    parser.add_argument("--chunks", type=int, default=0, help="leave after so many; 0: all")
    parser.add_argument("-o", "--output", default="speech.wav")
    given = parser.parse_args()
    started, seconds = time.monotonic(), 0.0
    chunks = stream(given.url, given.text, given.voice)
    try:
        first = next(chunks)
        with wave.open(given.output, "wb") as file:
            file.setparams((1, 2, first[1], 0, "NONE", ""))
            for number, (samples, rate, sentence) in enumerate(itertools.chain([first], chunks), 1):
                file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
                seconds += len(samples) / rate
                after = time.monotonic() - started
                sys.stderr.write(
                    f"{after:6.2f} s  sentence {sentence}, {seconds:.2f} s of audio so far\n"
                )
                if number == given.chunks:
                    chunks.close()  # cancels what is still being made
    except InferenceServerException as error:
        sys.exit(f"{error.status() or 'error'}: {error.message()}")
    except queue.Empty:
        sys.exit(f"no chunk within {TIMEOUT:g} s")


if __name__ == "__main__":
    main()
