"""Rates and sizes of GPT-SoVITS v4, each named once; derived ones are computed, not repeated."""

from __future__ import annotations


def exact_div(dividend: int, divisor: int) -> int:
    """Integer quotient; ValueError when the division leaves a remainder."""
    quotient, remainder = divmod(dividend, divisor)
    if remainder:
        raise ValueError(f"{dividend} is not a multiple of {divisor}")
    return quotient


# Rates, in Hz
SSL_RATE = 16_000  # input of HuBERT
REFERENCE_RATE = 32_000  # spectrogram and mel of the reference
OUTPUT_RATE = 48_000  # output of the vocoder
TOKEN_RATE = 25  # semantic tokens per second
MEL_RATE = 100  # mel frames per second, reference and generated alike

# Spectrogram for the style encoder, and mel for the flow, both at REFERENCE_RATE
SPECTRUM_FFT = 2048
SPECTRUM_HOP = 640
STYLE_BINS = 704  # linear-magnitude bins that the style encoder reads, of 1025
MEL_FFT = 1280
MEL_HOP = exact_div(REFERENCE_RATE, MEL_RATE)  # 320
MEL_CHANNELS = 100
MEL_FLOOR, MEL_CEILING = -12.0, 2.0  # log-mel range mapped to [-1, 1] for the flow

SAMPLES_PER_FRAME = exact_div(OUTPUT_RATE, MEL_RATE)  # 480 output samples a mel frame
FRAMES_PER_TOKEN = exact_div(MEL_RATE, TOKEN_RATE)  # 4 mel frames a semantic token

# The prompt's tail: upstream appends 0.3 s counted at 32 kHz to a 16 kHz wave (TTS.py:809), so the
# model was trained and is used with 0.6 s. The quirk feeds the model: keep.
SSL_TAIL_SAMPLES = 9_600

REFERENCE_MIN_SECONDS, REFERENCE_MAX_SECONDS = 3.0, 10.0

# Semantic language model
VOCABULARY = 1025
EOS = 1024
EOS_FREE_STEPS = 11  # EOS can't be drawn in the first eleven steps (t2s_model.py)
MAX_TOKENS = 1_500  # a sentence is cut after 60 s of audio

# Flow matching: reference and new frames share one window
FLOW_WINDOW = 1_000
FLOW_REFERENCE_MAX = 500

# Models whose name begins so answer callers; all others answer (also) each other.
PUBLIC_PREFIX = "gpt_sovits_v4"
STREAM_MODEL = "gpt_sovits_v4_stream"

PHONEMES = 732  # symbols of v2 and later
BERT_DIM = 1024

# Of text
MAX_TRANSCRIPT = 510  # characters; ten seconds of speech have 200 at most
MAX_TOTAL_PAUSE = 300.0  # seconds of [pause:...] in one text: some 55 MB of samples
