"""A gateway on a real socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from gsv_client import AsyncClient
from gsv_client.gateway.app import create_app
from gsv_client.gateway.metrics import Metrics
from gsv_client.gateway.serving import Server, configuration
from gsv_client.gateway.settings import Settings


@dataclasses.dataclass
class Gateway:
    """A running gateway."""

    url: str
    port: int
    metrics: Metrics
    server: Server
    loop: asyncio.AbstractEventLoop | None = None

    def tasks(self) -> int:
        """asyncio tasks that are alive in it."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(10)


@contextlib.contextmanager
def running(client: AsyncClient, settings: Settings | None = None) -> Iterator[Gateway]:
    """A gateway in front of whatever the client leads to; stopped when the block ends."""
    chosen, metrics = settings or Settings(local=True), Metrics()
    ready = threading.Event()
    app = create_app(client, chosen, metrics)
    server = Server(configuration(app, chosen, metrics), ready.set)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    gateway = Gateway(f"http://127.0.0.1:{port}", port, metrics, server)

    def run() -> None:
        async def inside() -> None:
            gateway.loop = asyncio.get_running_loop()
            await server.serve(sockets=[listening])

        asyncio.run(inside())

    thread = threading.Thread(target=run, name="test-gateway")
    thread.start()
    try:
        assert ready.wait(20)
        yield gateway
    finally:
        server.should_exit = True
        thread.join(40)
        listening.close()
        assert not thread.is_alive()


def key_file(folder: Path, *names: str) -> tuple[Path, dict[str, str]]:
    """A file with a key for each name, and the keys."""
    from gsv_client.gateway.keys import new_key

    made = {name: new_key(name) for name in names}
    file = folder / "gateway.keys"
    file.write_text("# who may\n" + "".join(f"{line}\n" for _, line in made.values()))
    return file, {name: key for name, (key, _) in made.items()}
