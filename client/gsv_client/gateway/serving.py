"""Runs the gateway until it is told to stop."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Mapping

import uvicorn

from gsv_client.async_client import AsyncClient
from gsv_client.gateway.app import create_app
from gsv_client.gateway.connections import protocol_classes
from gsv_client.gateway.metrics import Metrics
from gsv_client.gateway.new_voices import check_can_add
from gsv_client.gateway.settings import Settings

DRAIN_SECONDS = 20  # for answers under way when the gateway is told to stop
KEEP_ALIVE_SECONDS = 20
BACKLOG = 2_048
MOST_HEADERS = 64 * 1024  # bytes of a request's line and headers


class Server(uvicorn.Server):
    """A uvicorn server that tells where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def serve(
    url: str | None,
    host: str,
    port: int,
    settings: Settings,
    *,
    timeout: float,
    headers: Mapping[str, str],
    quiet: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        url: Triton's gRPC.
        host, port: where to listen; port 0 takes any.
        settings: limits and switches.
        timeout: seconds that Triton may take to answer, or to the next chunk.
        headers: sent to Triton with every request.
        quiet: no line for each request.
        on_ready: called with the gateway's address.

    Raises:
        OSError: the address can't be listened on.
    """
    if settings.voices is not None:
        check_can_add()
    client, metrics = AsyncClient(url, timeout=timeout, headers=headers), Metrics()
    app = create_app(client, settings, metrics)
    log_to_stderr(quiet)
    with _listen(host, port) as listening:
        address = _address(listening)
        config = configuration(app, settings, metrics)
        Server(config, lambda: (on_ready or _tell)(address)).run(sockets=[listening])


def configuration(app: object, settings: Settings, metrics: Metrics) -> uvicorn.Config:
    """uvicorn's side of it."""
    http, socket = protocol_classes(settings, metrics)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=http,
        ws=socket,
        ws_max_size=settings.most_body,
        # Pings keep proxies from closing a quiet socket. That no answer comes tells nothing: it may
        # come after audio that the caller has yet to hear. Who takes nothing is cut off anyhow.
        ws_ping_timeout=None,
        ws_per_message_deflate=False,  # audio does not shrink, and texts are short
        log_config=None,
        access_log=False,  # uvicorn's has the query, in which there may be a text or a key
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )


def log_to_stderr(quiet: bool) -> None:
    """One line for each request, and what uvicorn has to say when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (
        ("gsv_client.gateway", logging.WARNING if quiet else logging.INFO),
        ("uvicorn.error", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _tell(address: str) -> None:
    logging.getLogger("gsv_client.gateway").warning("listening on %s", address)
