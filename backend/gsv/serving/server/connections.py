"""The connections of tritonserver's callers: who waits in vain, who reads nothing, and their end.

A public model answers through response senders, after its ``execute`` has returned. When its
process dies, no version of Triton ends the requests that it had in hand, and unloading and loading
the model changes nothing about them (2.51): their callers would wait for their own time limit. All
that can be done from outside is to end their connections, without restarting the server. The kernel
tells when a connection last carried something in each direction.

Nor does Triton notice a caller that opens a stream and reads nothing of it: what is made for it is
kept in the server's memory (2.51). The kernel tells whether the other side still takes bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gsv.serving.backend.callers_file import Asked
from gsv.serving.server.processes import open_process

_PIDFD_GETFD = 438  # the same number on every architecture; Linux 5.6
_ESTABLISHED = "01"
_LATEST_SECONDS = 2.0  # that Triton needs between a model and a connection, on a busy machine
_AGAIN_SECONDS = 0.2  # until the callers' files are read again; they are written every 0.1 s
_CLOCK_SECONDS = 0.05  # by which the kernel's clock and looking at it may be off
_GONE = (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN)  # closed meanwhile
_SOCKET = re.compile(r"socket:\[(\d+)\]")
# struct tcp_info of linux/tcp.h: packets that are not acknowledged, milliseconds since data was
# last sent and last received, bytes acknowledged, bytes not sent yet.
_TCP_INFO = struct.Struct("=24xI16xI4xI64xQ16xI")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What the kernel knows of a connection.

    Attributes:
        server, caller: seconds since it last carried bytes from either.
        taken: bytes that the caller has taken, in all.
        held: whether there are more for it.
    """

    server: float
    caller: float
    taken: int = 0
    held: bool = False

    def waits_since(self, seconds: float, *, begun: bool, later: float = 0.0) -> bool:
        """Whether its caller may wait for an answer for so long.

        Args:
            seconds: without a byte from either side.
            later: so long after the caller's last byte the server may have sent something.
            begun: the answer may have begun. If not, what came last must be the request; this holds
                for HTTP, where connections that are kept open between requests can be told apart.
        """
        # Who has not taken what there is waits for nothing more yet.
        quiet = self.server > seconds - later and self.caller > seconds and not self.held
        # The kernel's clock is coarse: a connection may be made and used in one tick of it.
        asked = self.caller < self.server or (self.caller == self.server and self.taken <= 1)
        return quiet and (begun or asked)


def end_waiting(
    server: int,
    ports: Mapping[int, bool],
    since: float,
    *,
    later: float = 0.0,
    among: Container[str] | None = None,
    spared: Container[int] = (),
    lost: Sequence[Asked] = (),
    answered: Callable[[], Sequence[Asked]] = tuple,
) -> Ended:
    """End the connections to the process ``server`` on which nothing has come or gone since then.

    Those are left alone that belong to requests that another process answers. Which they are is
    told by the times at which something came and went, the nearest first, one for each request.

    Args:
        server: process number of tritonserver.
        ports: of those connections; for each whether an answer may have begun, as in
            :meth:`Traffic.waits_since`.
        since: when the model died whose callers wait, by time.monotonic; infinity: whatever comes
            and goes.
        later: seconds after that in which what was made before may still have been sent.
        among: only these, as :func:`names_of` gives them; None: all.
        spared: ports on the callers' side: of who loads the model again, for one.
        lost: requests of the process that died.
        answered: tells the requests of those that live. Asked twice, since one that has just had
            its answer is another's no more.

    Returns:
        How many were ended.

    Raises:
        PermissionError: this process may not look into the other's (a container without the
            capability SYS_PTRACE).
        OSError: the kernel can't (before Linux 5.6), or the server has ended.
    """

    before = answered()
    of_lost: set[str] = set()

    def over(connections: list[_Connection]) -> set[str]:
        if before:
            time.sleep(_AGAIN_SECONDS)
        living = {asked.came for asked in answered()}
        owners = _owners(connections, [asked for asked in before if asked.came in living], lost)
        of_lost.update(name for name, is_lost in owners.items() if is_lost)
        return {
            one.name
            for one in connections
            if one.traffic.waits_since(
                one.looked - since, begun=ports[one.port] or one.name in of_lost, later=later
            )
            and (among is None or one.name in among)
            and one.peer not in spared
            and owners.get(one.name, True)
        }

    ended = _end_some(server, ports, over, unmoved=bool(before))
    return Ended(len(ended), len(ended & of_lost))


class Ended(NamedTuple):
    """How many connections were ended, and of these how many belonged to lost requests."""

    connections: int
    of_lost: int


def names_of(server: int, ports: Container[int]) -> frozenset[str]:
    """The connections to these ports of the process ``server``.

    Raises:
        OSError: as :func:`end_waiting`.
    """
    return frozenset(name for name, _, _ in _sockets(server, ports))


def own_ports(to: int) -> frozenset[int]:
    """Ports, on our side, of this process's connections to the port ``to`` of any machine."""
    return frozenset(mine for _, _, mine, other in _all_sockets(os.getpid()) if other == to)


class UnreadConnections:
    """Ends connections whose callers have taken nothing of what is held for them for too long.

    Args:
        seconds: how long.
        clock: seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._seen: dict[str, tuple[int, float]] = {}  # bytes taken, and since when no more

    def end(self, server: int, ports: Container[int]) -> int:
        """Look at the connections to a server's ports; call it often.

        Returns:
            How many were ended.

        Raises:
            OSError: as :func:`end_waiting`.
        """
        before, self._seen = self._seen, {}

        def stuck(connections: list[_Connection]) -> set[str]:
            now, names = self._clock(), set()
            for one in connections:
                taken, since = before.get(one.name, (-1, now))
                moved = taken != one.traffic.taken or not one.traffic.held
                self._seen[one.name] = one.traffic.taken, now if moved else since
                if not moved and now - since > self._seconds:
                    names.add(one.name)
            return names

        return len(_end_some(server, ports, stuck))


@dataclasses.dataclass(frozen=True)
class _Connection:
    """One of the server's; ``name`` is of its socket, the same at each look."""

    name: str
    port: int
    peer: int  # port on the other side
    traffic: Traffic
    looked: float  # when that was read; looking at all of them takes time on a busy machine

    def moved(self, traffic: Traffic, looked: float) -> bool:
        """Whether it has carried something since."""
        before = self.looked - self.traffic.server, self.looked - self.traffic.caller
        after = looked - traffic.server, looked - traffic.caller
        return any(b - a > _CLOCK_SECONDS for a, b in zip(before, after, strict=True))


def _end_some(
    server: int,
    ports: Container[int],
    over: Callable[[list[_Connection]], set[str]],
    *,
    unmoved: bool = False,
) -> set[str]:
    """End those connections whose names ``over`` gives, of all that there are; which were ended.

    ``unmoved``: not those that have carried something since they were looked at.
    """
    ended: set[str] = set()
    handle = open_process(server)
    try:
        # One at a time: there may be more of them than this process may have open.
        descriptors, connections = dict[str, int](), dict[str, _Connection]()
        for name, descriptor, port in _sockets(server, ports):
            with _unless_gone(), _duplicate(handle, descriptor) as ours:
                peer = ours.getpeername()[1]
                traffic = _traffic(ours)
                connections[name] = _Connection(name, port, peer, traffic, time.monotonic())
                descriptors[name] = descriptor
        for name in over(list(connections.values())):
            with _unless_gone(), _duplicate(handle, descriptors[name]) as ours:
                if str(os.fstat(ours.fileno()).st_ino) != name:
                    continue  # another one meanwhile
                if unmoved and connections[name].moved(_traffic(ours), time.monotonic()):
                    continue
                ours.shutdown(socket.SHUT_RDWR)
                ended.add(name)
    finally:
        os.close(handle)
    return ended


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _owners(
    connections: list[_Connection], answered: Sequence[Asked], lost: Sequence[Asked]
) -> dict[str, bool]:
    """Of the connections that requests were found for, by name: whether theirs is lost."""
    pairs = sorted(
        (gap, one.name, number)
        for one in connections
        for number, asked in enumerate([*answered, *lost])
        if (gap := _gap(one.traffic, asked, one.looked)) is not None
    )
    owners: dict[str, int] = {}
    for _, name, number in pairs:
        if name not in owners and number not in owners.values():
            owners[name] = number
    return {name: number >= len(answered) for name, number in owners.items()}


def _gap(traffic: Traffic, asked: Asked, looked: float) -> float | None:
    """Seconds between what a request and a connection tell of the same event; None: not the same.

    A model sees a request a little after its last byte has come, and the first byte of what it
    sends leaves a little later.
    """
    if asked.sent is None:
        late = asked.came - (looked - traffic.caller)
    else:
        late = (looked - traffic.server) - asked.sent
    return abs(late) if -_CLOCK_SECONDS <= late <= _LATEST_SECONDS else None


def _sockets(server: int, ports: Container[int]) -> Iterator[tuple[str, int, int]]:
    """Name, descriptor in the process ``server``, and local port of its connections."""
    for name, descriptor, port, _ in _all_sockets(server):
        if port in ports:
            yield name, descriptor, port


def _all_sockets(process: int) -> Iterator[tuple[str, int, int, int]]:
    """As :func:`_sockets` of any port, with the port on the other side."""
    found = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{process}/net/{name}").read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # a machine without IPv6
        for words in map(str.split, lines):
            if words[3] == _ESTABLISHED:
                mine, other = (int(word.rpartition(":")[2], 16) for word in words[1:3])
                found[words[9]] = mine, other
    for entry in os.listdir(f"/proc/{process}/fd"):
        try:
            match = _SOCKET.fullmatch(os.readlink(f"/proc/{process}/fd/{entry}"))
        except FileNotFoundError:
            continue  # closed meanwhile
        if match and match[1] in found:
            yield match[1], int(entry), *found.pop(match[1])


def _duplicate(handle: int, descriptor: int) -> socket.socket:
    """A socket of another process, as one of this process too."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
    if ours < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return socket.socket(fileno=ours)


def _traffic(connection: socket.socket) -> Traffic:
    facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    unacknowledged, sent, received, taken, unsent = _TCP_INFO.unpack(facts)
    return Traffic(sent / 1000, received / 1000, taken, bool(unacknowledged or unsent))
