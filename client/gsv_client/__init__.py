"""Client of GPT-SoVITS v4 on NVIDIA Triton.

>>> from gsv_client import Client
>>> with Client("localhost:8000") as client:
...     audio = client.say("Hello there.", voice="demo")
>>> audio
Audio(1.20 s, 48000 Hz)
"""

from gsv_client.answers import (
    Analysis,
    Chunk,
    Health,
    SegmentAnalysis,
    SentenceAnalysis,
    Voice,
    Voices,
)
from gsv_client.async_client import AsyncClient
from gsv_client.async_streams import AsyncSpeechStream, AsyncTextStream
from gsv_client.audio import Audio
from gsv_client.client import Client
from gsv_client.errors import (
    AccessDenied,
    AudioError,
    Cancelled,
    GsvClientError,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    Timeout,
)
from gsv_client.options import SpeechOptions
from gsv_client.speech_stream import SpeechStream
from gsv_client.spoken import SentenceReport, WordTime
from gsv_client.wav import WavWriter

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Analysis",
    "AsyncClient",
    "AsyncSpeechStream",
    "AsyncTextStream",
    "Audio",
    "AudioError",
    "Cancelled",
    "Chunk",
    "Client",
    "GsvClientError",
    "Health",
    "InvalidRequest",
    "NotFound",
    "SegmentAnalysis",
    "SentenceAnalysis",
    "SentenceReport",
    "ServerError",
    "ServerUnavailable",
    "SpeechOptions",
    "SpeechStream",
    "Timeout",
    "Voice",
    "Voices",
    "WavWriter",
    "WordTime",
]
