"""Have a running tritonserver load a model, over gRPC.

Over HTTP Triton loads a model in the thread of the connection that asked for it, and every other
connection of that thread waits until the load is over (2.51). It has eight such threads, but a new
connection gets the first that has no other one to begin with, which is nearly always the same: a
load would hold up nearly all HTTP callers, streams in mid-sentence too. Over gRPC each load has a
thread of its own.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from gsv.serving.server.connections import own_ports

_KEY_PREFIX = "triton-grpc-protocol-"  # Triton's, of headers that hold the key of what it restricts
_STEP_SECONDS = 0.2
_UNAVAILABLE = "StatusCode.UNAVAILABLE"
_NOT_ANSWERED = (_UNAVAILABLE, "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
]


def load_model(
    address: str,
    model: str,
    config: str | None = None,
    *,
    headers: dict[str, str],
    timeout: float,
    give_up: Callable[[], bool],
    own: set[int],
) -> tuple[bool | None, str]:
    """Wait until a model is loaded, or loaded anew.

    Args:
        address: ``host:port`` of Triton's gRPC.
        model: its name.
        config: JSON, in place of the configuration in the model's folder.
        headers: names and values of the keys that Triton asks for.
        timeout: seconds.
        give_up: ends the waiting; asked every fifth of a second.
        own: holds our port of the connection while it is open.

    Returns:
        Whether the model is loaded (None: Triton has not answered), and why not.

    Raises:
        ConnectionError: it does not speak gRPC there, or not in clear, or not to everybody, or not
            for so long.
    """
    client = InferenceServerClient(address, channel_args=_OPTIONS)
    connection: frozenset[int] = frozenset()

    def call() -> None:
        nonlocal connection
        port = int(address.rpartition(":")[2])
        before = own_ports(port)
        try:
            client.is_server_live(client_timeout=timeout)
        except InferenceServerException as error:
            if error.status() == _UNAVAILABLE:
                raise ConnectionError(error.message()) from error
            raise
        connection = own_ports(port) - before
        own.update(connection)
        keys = {_KEY_PREFIX + name: value for name, value in headers.items()}
        client.load_model(model, headers=keys, config=config, client_timeout=timeout)

    with concurrent.futures.ThreadPoolExecutor(1, "load") as threads:
        answer = threads.submit(call)
        try:
            while not answer.done() and not give_up():
                concurrent.futures.wait([answer], _STEP_SECONDS)
            answered = answer.done()
        finally:
            client.close()  # which ends the call, should nobody wait for it any more
    own -= connection
    try:
        answer.result()
    except InferenceServerException as error:
        if answered and error.status() == _UNAVAILABLE:  # a key is asked for, or the call was cut
            raise ConnectionError(error.message()) from error
        unanswered = not answered or error.status() in _NOT_ANSWERED
        return (None if unanswered else False), in_one_line(error.message())
    except ValueError:  # the client was closed between the two calls
        return None, "nobody waited"
    return True, ""


def in_one_line(message: str) -> str:
    """What Triton says of a model that failed, without Python's traceback."""
    return " ".join(message.split("\n\nAt:\n")[0].split())
