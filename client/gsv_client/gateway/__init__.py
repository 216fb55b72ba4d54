"""HTTP in front of a Triton server: OpenAI's speech API, GPT-SoVITS' api_v2, our own, and a page.

Stateless, without torch, any number of copies. Needs `pip install "gsv-client[gateway]"`.

    request ─► guard ─► a door (openai_, api_v2_, own_, text_door) ─► speaking ─► Triton
               key, size, pace,   reads the request, shapes answers          AsyncClient, one
               log, metrics       and errors as its clients expect           encoder per answer
"""

from __future__ import annotations

from gsv_client.gateway.app import create_app
from gsv_client.gateway.settings import Settings

__all__ = ["Settings", "create_app"]
