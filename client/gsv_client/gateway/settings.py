"""What an operator can set."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from pathlib import Path

from gsv_client.limits import TEXT_LIMIT

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits and switches of a gateway.

    Attributes:
        keys: file of hashed API keys (`keys.py`); None lets everybody in.
        local: it listens on a loopback address only.
        cors: origins whose pages may call; `*` for all.
        default_voice: of requests that name none; None leaves that to the server.
        aliases: names that clients use → voices of the server.
        voices: voice folder that the page may add to; None switches that off.
        most_text: characters of one request.
        most_body: bytes of one request.
        head_seconds: until a request's line and headers are there.
        body_seconds: until its body is there.
        stall_seconds: how long a listener may read nothing, or a WebSocket send nothing.
        concurrency: requests at once, of all callers.
        per_key: requests at once of one key.
        connections: sockets at once, idle ones included.
    """

    keys: Path | None = None
    local: bool = False
    cors: tuple[str, ...] = ()
    default_voice: str | None = None
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    voices: Path | None = None
    most_text: int = TEXT_LIMIT
    most_body: int = 16 * MIB
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    stall_seconds: float = 120.0
    concurrency: int = 256
    per_key: int = 32
    connections: int = 2_000


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
