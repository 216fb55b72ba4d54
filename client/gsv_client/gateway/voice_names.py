"""What clients call a voice, and which one of the server's is meant."""

from __future__ import annotations

import re

from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Speaker

# NAME, or NAME/RECORDING for a further recording of that speaker.
VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?")
# OpenAI's own voices: tools name one where the user has chosen none. A server without a voice of
# that name speaks with its default.
OPENAI_VOICES = frozenset(
    (
        "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx",
        "sage", "shimmer", "verse",
    )
)  # fmt: skip


class VoiceNames:
    """Resolves names: the operator's aliases, OpenAI's own voices, the server's."""

    def __init__(self, settings: Settings, speaker: Speaker) -> None:
        self._aliases = settings.aliases
        self._default = settings.default_voice
        self._speaker = speaker

    async def resolve(self, name: str | None) -> str | None:
        """The server's name of a voice; None for its default."""
        name = name and name.strip()  # lists of voices are typed with blanks after the commas
        if not name or name == "default":
            return self._default
        if name in self._aliases:
            return self._aliases[name]
        if name in OPENAI_VOICES:
            known = {voice.name for voice in await self._speaker.voices()}
            return name if name in known else self._default
        return name
