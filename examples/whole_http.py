"""One request, one answer, over HTTP, with nothing but tritonclient.

pip install "tritonclient[http]"
python examples/whole_http.py "Hello." -o hello.wav
"""

from __future__ import annotations

import argparse
import sys
import wave

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TIMEOUT = 300.0  # seconds; a page of text on a CPU takes its time


def tensor(name: str, value: str | int | float, datatype: str) -> triton.InferInput:
    """A scalar input, [1, 1]: the first 1 says that a request is one utterance."""
    kinds = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
    content = value.encode("utf-8") if isinstance(value, str) else value
    given = triton.InferInput(name, [1, 1], datatype)
    given.set_data_from_numpy(np.array([[content]], dtype=kinds[datatype]), binary_data=True)
    return given


def speak(url: str, text: str, voice: str, seed: int) -> tuple[np.ndarray, int]:
    """The samples of the answer, float32 [n] in [-1, 1], and their rate in Hz."""
    inputs = [tensor("TEXT", text, "BYTES"), tensor("SEED", seed, "INT64")]
    if voice:  # an input that is left out has the server's default
        inputs.append(tensor("VOICE", voice, "BYTES"))
    outputs = [triton.InferRequestedOutput(name) for name in ("AUDIO", "SAMPLE_RATE")]
    client = triton.InferenceServerClient(url, network_timeout=TIMEOUT)
    try:
        answer = client.infer("gpt_sovits_v4", inputs, outputs=outputs)
    finally:
        client.close()
    return answer.as_numpy("AUDIO")[0], int(answer.as_numpy("SAMPLE_RATE")[0, 0])


def save(path: str, samples: np.ndarray, rate: int) -> None:
    """Write 16-bit PCM."""
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    """Parse the command line, speak, save."""
    parser = argparse.ArgumentParser(description="Speak TEXT over HTTP into a WAV file.")
    parser.add_argument("text")
    parser.add_argument("--url", default="localhost:8000", help="host:port of Triton's HTTP")
    parser.add_argument("--voice", default="", help="default: the server's")
    parser.add_argument("--seed", type=int, default=-1, help="-1: another one each time")
    parser.add_argument("-o", "--output", default="speech.wav")
    given = parser.parse_args()
    try:
        samples, rate = speak(given.url, given.text, given.voice, given.seed)
    except InferenceServerException as error:
        sys.exit(f"{error.status() or 'error'}: {error.message()}")
    save(given.output, samples, rate)
    sys.stderr.write(f"{given.output}: {len(samples) / rate:.2f} s at {rate} Hz\n")


if __name__ == "__main__":
    main()
