"""The connections of tritonserver's callers: which of them wait in vain, and how to end those.

A public model answers through response senders, after its ``execute`` has returned. When its
process dies, no version of Triton ends the requests that it had in hand, and unloading and loading
the model changes nothing about them (2.51): their callers would wait for their own time limit. All
that can be done from outside is to end their connections, without restarting the server. The kernel
tells when a connection last carried something in each direction.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import re
import socket
import struct
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

_PIDFD_GETFD = 438  # the same number on every architecture; Linux 5.6
_ESTABLISHED = "01"
_GONE = (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN)  # closed meanwhile
_SOCKET = re.compile(r"socket:\[(\d+)\]")
# struct tcp_info of linux/tcp.h: milliseconds since data was last sent, and last received.
_TCP_INFO = struct.Struct("=44xI4xI")


@dataclasses.dataclass(frozen=True)
class Silence:
    """Seconds since a connection last carried bytes from the server, and from its caller."""

    server: float
    caller: float

    def waits_since(self, seconds: float, *, begun: bool) -> bool:
        """Whether its caller may wait for an answer for so long.

        Args:
            begun: the answer may have begun. If not, what came last must be the request; this holds
                for HTTP, where connections that are kept open between requests can be told apart.
        """
        quiet = self.server > seconds and self.caller > seconds
        return quiet and (begun or self.caller <= self.server)


def end_waiting(server: int, ports: Mapping[int, bool], seconds: float) -> int:
    """End the connections to the process ``server`` on which nothing has come or gone for so long.

    Args:
        server: process number of tritonserver.
        ports: of those connections; for each whether an answer may have begun, as in
            :meth:`Silence.waits_since`.
        seconds: since the death of the model whose callers wait; below 0, whatever comes and goes.

    Returns:
        How many were ended.

    Raises:
        PermissionError: this process may not look into the other's (a container without the
            capability SYS_PTRACE).
        OSError: the kernel can't (before Linux 5.6), or the server has ended.
    """
    ended = 0
    handle = os.pidfd_open(server)
    try:
        for descriptor, port in _sockets(server, ports):
            try:
                with _duplicate(handle, descriptor) as connection:
                    if _silence(connection).waits_since(seconds, begun=ports[port]):
                        connection.shutdown(socket.SHUT_RDWR)
                        ended += 1
            except OSError as error:
                if error.errno not in _GONE:
                    raise
    finally:
        os.close(handle)
    return ended


def _sockets(server: int, ports: Container[int]) -> Iterator[tuple[int, int]]:
    """Descriptor in the process ``server``, and local port, of each established connection."""
    found = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{server}/net/{name}").read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # a machine without IPv6
        for words in map(str.split, lines):
            port = int(words[1].rpartition(":")[2], 16)
            if port in ports and words[3] == _ESTABLISHED:
                found[words[9]] = port
    for entry in os.listdir(f"/proc/{server}/fd"):
        try:
            match = _SOCKET.fullmatch(os.readlink(f"/proc/{server}/fd/{entry}"))
        except FileNotFoundError:
            continue  # closed meanwhile
        if match and match[1] in found:
            yield int(entry), found[match[1]]


def _duplicate(handle: int, descriptor: int) -> socket.socket:
    """A socket of another process, as one of this process too."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
    if ours < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return socket.socket(fileno=ours)


def _silence(connection: socket.socket) -> Silence:
    facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    sent, received = _TCP_INFO.unpack(facts)  # milliseconds
    return Silence(sent / 1000, received / 1000)
