"""Voices: folders with a reference recording each, chosen by name in a request."""

from gsv.voices.folder import VoiceFolder
from gsv.voices.voice import NAME_PATTERN, VOICE_FILE, Voice, VoiceEntry, describe, load_voice

__all__ = [
    "NAME_PATTERN", "VOICE_FILE", "Voice", "VoiceEntry", "VoiceFolder", "describe", "load_voice",
]  # fmt: skip
