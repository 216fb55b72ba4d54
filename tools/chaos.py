"""Faults on purpose: what dies, hangs, floods or leaves, and what the other callers notice of it.

    .venv/bin/python tools/chaos.py                     # all of it, on tiny random weights
    .venv/bin/python tools/chaos.py --short             # a minute, for continuous integration
    .venv/bin/python tools/chaos.py --only kill,fuzz --seed 7 -o chaos.json
    .venv/bin/python tools/chaos.py --only kill --models vocoder --repeat 10 --clients 16
    .venv/bin/python tools/chaos.py --only kill,stop,hang --instances 2 --clients 16
    .venv/bin/python tools/chaos.py --only soak --minutes 60 --clients 16

A `gsv serve` of its own is started on free ports of the loopback address, clients speak all the
time, and faults come one after the other. Only processes that belong to that server are killed,
each by its number. Full disks and a full /dev/shm are small file systems in a mount namespace of
their own; where that is not allowed, this part is skipped and says so.

The exit code is 1 when something stayed broken, or a caller waited beyond its time limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from chaos_fuzz import Fuzzer

from gsv.constants import PUBLIC_PREFIX, STREAM_MODEL
from gsv.serving.backend.process_state import board_prefix, namespace
from gsv.serving.server import processes
from gsv_client import Client, GsvClientError
from gsv_client.transport import over_grpc

MODELS = (
    "gpt_sovits_v4", "gpt_sovits_v4_stream", "text_frontend", "reference_encoder", "semantic_gpt",
    "sovits_v4", "vocoder", "voices",
)  # fmt: skip
FAULTS = (
    "kill", "stop", "hang", "server", "leave", "unread", "idle", "fuzz", "full", "end", "soak",
)  # fmt: skip
NOT_BY_DEFAULT = ("soak",)
SHORT = {
    "kill": ["vocoder", "gpt_sovits_v4"],
    "stop": ["voices"],
}  # whose processes are hurt in a minute
BACK_SECONDS = 60.0  # until something that was hurt has to be back
QUIET_SECONDS = 2.0  # without a failure: it is
CALM_SECONDS = {False: 45.0, True: 5.0}  # of calls before the first fault; of the short form
WARM_CALLS = 1  # for each client, before each fault
WARM_SECONDS = 30.0  # for these at the most
CALL_SECONDS = 30.0  # a caller's own time limit
# What callers ask for, and the seed with which tiny random weights speak it in 0.8 to 1.4 s: the
# faults are to be seen, not how slow a machine is.
LINES = (("Yes.", 6), ("Hm.", 6), ("Well.", 0), ("I am.", 0))
STREAMS_LEFT = 64
UNREAD_SECONDS = 6  # after which gsv serve disconnects who reads nothing
IDLE, HALF_OPEN = 500, 300  # connections
KILL_EVERY = 60.0  # seconds, of the soak
SLOWEST = 8  # calls that are told of each fault

# Stops every thread of a process without the kernel calling it stopped: as if each hung in a lock.
# An own process, for what ptrace stops belongs to the thread that stopped it.
HANG = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
done = 0
for thread in os.listdir(f"/proc/{sys.argv[1]}/task"):
    if libc.ptrace(SEIZE, int(thread), None, None) == 0:
        done += libc.ptrace(INTERRUPT, int(thread), None, None) == 0
print(done, flush=True)
while done:
    try:
        os.waitpid(-1, WALL)
    except ChildProcessError:
        break
"""


@dataclasses.dataclass
class Row:
    """What one fault did; times are in seconds."""

    fault: str
    what: str
    back: float | None = None  # until all clients were served again
    answered: int = 0
    failed: int = 0
    failed_elsewhere: int = 0  # of these, requests that another public model answered
    longest: float = 0.0  # wait of a caller
    normal: float = 0.0  # the longest without a fault
    beyond: float = 0.0  # the longest wait beyond the longest of the same kind without a fault
    restarted: bool = False  # tritonserver
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    slowest: list[str] = dataclasses.field(default_factory=list)  # calls, the longest first
    kills: list[str] = dataclasses.field(default_factory=list)  # of a soak
    log: list[str] = dataclasses.field(default_factory=list)  # what `gsv serve` said of it
    note: str = ""
    broken: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """One request of a client."""

    model: str
    door: str
    began: float
    ended: float
    error: str  # empty: answered


def slowest(calls: list[Call], begun: float) -> list[str]:
    """The calls that took longest, in words; ``begun`` is when the fault was."""
    longest = sorted(calls, key=lambda call: call.began - call.ended)[:SLOWEST]
    return [
        f"{call.ended - call.began:.1f} s, begun {call.began - begun:.1f} s after, {call.door} "
        f"{call.model}: {call.error or 'answered'}"
        for call in longest
    ]


ADDRESS = re.compile(r"\S*127\.0\.0\.1:\d+:? ?")
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


class Served:
    """A ``gsv serve`` as a process of its own."""

    def __init__(self, repository: Path, log: Path, room: str = "", options: tuple[str, ...] = ()):
        """``room`` is a shell command that makes a mount namespace of its own, and then goes on."""
        command = [
            sys.executable, "-c", "from gsv.commands.serve import serve; serve()", str(repository),
            "--http-port=0", "--grpc-port=0", "--metrics-port=0", "--exit-timeout=10",
            f"--unread-seconds={UNREAD_SECONDS}", *options,
        ]  # fmt: skip
        if room:
            command = ["unshare", "-m", "sh", "-c", f'{room} && exec "$@"', "sh", *command]
        self.lines: list[str] = []
        self._tritons = set[int]()  # all that were seen
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._log = log.open("w", encoding="utf-8")
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(180) or self.process.poll() is not None:
            self.end()
            raise SystemExit("gsv serve did not start:\n" + "\n".join(self.lines[-5:]))
        self.http, self.grpc = (
            next(line.split()[-1] for line in self.lines if line.startswith(f"  {name}"))
            for name in ("HTTP", "gRPC")
        )

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            self._log.write(line)
            self._log.flush()
            if line.startswith(("try: ", "no voices")):
                self._ready.set()
        self._ready.set()

    @property
    def triton(self) -> int:
        """Process number of tritonserver; 0 while there is none."""
        for pid in processes.children(self.process.pid):
            with contextlib.suppress(OSError):
                if b"tritonserver" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                    self._tritons.add(pid)
                    return pid
        return 0

    def stub(self, model: str) -> int:
        """Process number of a model's first stub; 0 while there is none."""
        return next(iter(self.stubs(model)), 0)

    def stubs(self, model: str) -> list[int]:
        """Process numbers of a model's stubs."""
        return [stub.pid for stub in processes.living_stubs(self.triton) if stub.model == model]

    def left_over(self) -> list[str]:
        """Shared memory that is there although the server is not."""
        mine = f"gsv-{namespace()}-{self.process.pid}-", *map(board_prefix, self._tritons)
        return [p.name for p in processes.SHARED_MEMORY.iterdir() if p.name.startswith(mine)]

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal; seconds until it has ended."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return time.monotonic() - started


class Clients:
    """Callers that ask all the time, by HTTP and gRPC, for whole answers and streams.

    Each has connections of its own, as programs on other machines have.
    """

    def __init__(self, served: Served, count: int) -> None:
        if OWN_CONNECTION not in over_grpc.UNLIMITED:
            over_grpc.UNLIMITED.append(OWN_CONNECTION)
        self.calls: list[Call] = []
        self.waiting: dict[int, float] = {}  # since when each waits
        self._served, self._closing = served, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Let them finish what they do."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        draw = random.Random(number)
        while not self._closing.is_set():
            began, error = time.monotonic(), ""
            self.waiting[number] = began
            url = self._served.grpc if number % 2 else self._served.http
            door = "gRPC" if number % 2 else "HTTP"
            model = PUBLIC_PREFIX if number % 4 < 2 else STREAM_MODEL
            try:
                with Client(url, protocol=door.lower(), timeout=CALL_SECONDS) as client:
                    text, seed = draw.choice(LINES)
                    if model == PUBLIC_PREFIX:
                        client.say(text, seed=seed, sample_steps=1)
                    else:
                        for _ in client.stream(text, seed=seed, sample_steps=1):
                            pass
            except GsvClientError as caught:
                said = ADDRESS.sub("", str(caught))
                error = f"{type(caught).__name__}: {said[:70]}"
            self.calls.append(Call(model, door, began, time.monotonic(), error))
            del self.waiting[number]
            if error:
                self._closing.wait(0.2)


class Chaos:
    """One run: the server, its clients, the rows of the table."""

    def __init__(
        self,
        repository: Path,
        folder: Path,
        clients: int,
        seed: int,
        calm: float,
        on_row: Callable[[list[Row]], None],
    ) -> None:
        self._repository, self._folder, self._count, self.seed = repository, folder, clients, seed
        self.rows: list[Row] = []
        self._on_row = on_row
        self.served = Served(repository, folder / "serve.log", options=("--recoveries=1000",))
        self._clients: Clients | None = None  # who ask through several faults
        self._normal = dict.fromkeys((PUBLIC_PREFIX, STREAM_MODEL), 0.0)  # longest call of each
        with self._new_clients() as calls:
            time.sleep(calm)
            self._learn(calls)

    def _new_clients(self) -> contextlib.closing[Clients]:
        return contextlib.closing(Clients(self.served, self._count))

    def _learn(self, clients: Clients) -> None:
        """Take the longest calls that there were without a fault."""
        for call in list(clients.calls):
            self._normal[call.model] = max(self._normal[call.model], call.ended - call.began)

    def during(
        self, fault: str, what: str, hurt: Callable[[], str | None], *, settled: Callable[[], bool]
    ) -> Row:
        """Let clients ask, do the harm, wait until they are all served again."""
        row = Row(fault, what)
        triton = self.served.triton
        with contextlib.ExitStack() as stack:
            clients = self._clients or stack.enter_context(self._new_clients())
            asked = len(clients.calls)
            warm = time.monotonic() + WARM_SECONDS
            most = asked + WARM_CALLS * self._count
            while len(clients.calls) < most and time.monotonic() < warm:
                time.sleep(0.1)
            begun = time.monotonic()
            if not self._clients:
                self._learn(clients)
            row.normal = max(self._normal.values())
            said = len(self.served.lines)
            row.note = hurt() or ""
            limit, again = time.monotonic() + BACK_SECONDS, 0.0
            while time.monotonic() < limit:
                time.sleep(0.1)
                if not again and settled():
                    again = time.monotonic() - begun
                ended = [call for call in clients.calls[asked:] if call.ended > begun]
                failures = [call.ended for call in ended if call.error]
                last = max(failures, default=begun)
                good = [c for c in ended if not c.error and c.began >= last]
                calm = time.monotonic() - last > QUIET_SECONDS
                hurting = any(b < begun + again for b in list(clients.waiting.values()))
                if calm and not hurting and len(good) >= self._count and again:
                    served = min(c.ended for c in good) - begun if failures else 0.0
                    row.back = max(again, served)
                    break
        calls = [call for call in clients.calls[asked:] if call.ended > begun]
        row.answered = sum(not call.error for call in calls)
        row.failed = len(calls) - row.answered
        row.failed_elsewhere = sum(bool(c.error) and c.model != what for c in calls)
        waits = [(call.ended - call.began, self._normal[call.model]) for call in calls]
        row.longest = max((seconds for seconds, _ in waits), default=0.0)
        row.beyond = max((seconds - normal for seconds, normal in waits), default=0.0)
        row.slowest = slowest(calls, begun)
        row.errors = dict(Counter(call.error for call in calls if call.error).most_common())
        row.log = [s for s in self.served.lines[said:] if s.startswith(("model ", "tritonserver"))]
        row.restarted = self.served.triton != triton
        row.broken = row.back is None or row.longest > CALL_SECONDS + 3.0
        self.add(row)
        return row

    def add(self, row: Row) -> None:
        """Take a row, and show it."""
        self.rows.append(row)
        click.echo(line_of(row))
        self._on_row(self.rows)

    def stub(self, fault: str, model: str) -> None:
        """Kill a model's process, stop it for 10 s or let it hang."""
        before, said = self.served.stubs(model), len(self.served.lines)
        pid = random.Random(f"{self.seed}-{len(self.rows)}").choice(before)

        def settled() -> bool:
            now = self.served.stubs(model)
            told = any("ready again" in line for line in self.served.lines[said:])
            return told and pid not in now and len(now) == len(before)

        def hurt() -> str | None:
            if fault == "kill":
                os.kill(pid, signal.SIGKILL)
            elif fault == "stop":
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(10.0, self._continue, (pid,)).start()
            else:
                helper = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", HANG, str(pid)],
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                assert helper.stdout is not None
                threads = int(helper.stdout.readline())
                threading.Thread(target=helper.wait, daemon=True).start()
                return f"{threads} threads" if threads else "ptrace is not allowed here"
            return None

        self.during(fault, model, hurt, settled=settled)

    def _continue(self, pid: int) -> None:
        # Only if it is still the same: a child of our server.
        if pid in processes.children(self.served.triton):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def server(self, number: signal.Signals) -> None:
        """Send tritonserver a signal."""
        pid = self.served.triton
        self.during(
            "server", number.name, lambda: os.kill(pid, number),
            settled=lambda: self.served.triton not in (0, pid),
        )  # fmt: skip

    def leave(self, streams: int) -> None:
        """Open streams and hang up at once, some of them after the first chunk."""

        def hurt() -> str:
            draw = random.Random(self.seed)
            threads = [
                threading.Thread(target=self._leave, args=(n, draw.random()))
                for n in range(streams)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            left = time.monotonic()
            while not self.is_idle() and time.monotonic() - left < BACK_SECONDS:
                time.sleep(0.05)
            return f"{streams} streams; none is in work {time.monotonic() - left:.1f} s later"

        self.during("leave", "streams", hurt, settled=self.is_idle)

    def _leave(self, number: int, chance: float) -> None:
        url = self.served.grpc if number % 2 else self.served.http
        protocol = "grpc" if number % 2 else None
        with (
            contextlib.suppress(GsvClientError),
            Client(url, protocol=protocol, timeout=CALL_SECONDS) as client,
        ):
            stream = client.stream("This one is not heard to its end. " * 4, sample_steps=1)
            closer = threading.Timer(chance * 0.5, stream.close)
            closer.start()
            for _ in stream:
                if chance > 0.7:
                    break
            stream.close()
            closer.join()

    def unread(self, streams: int) -> None:
        """Open streams and read nothing of them for a while."""

        def hurt() -> str:
            host, port = self.served.http.rpartition("//")[2].split(":")
            body = json.dumps({"TEXT": "Nobody reads this. " * 20, "SAMPLE_STEPS": 1}).encode()
            head = (
                f"POST /v2/models/gpt_sovits_v4_stream/generate_stream HTTP/1.1\r\nHost: {host}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            with contextlib.ExitStack() as stack:
                for _ in range(streams):
                    one = stack.enter_context(socket.create_connection((host, int(port)), 10))
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    one.sendall(head + body)
                time.sleep(UNREAD_SECONDS + 8.0)
                top = memory(self.served.triton)
            return f"{streams} streams, tritonserver {before} to {top} MiB"

        before = memory(self.served.triton)
        row = self.during("unread", "streams", hurt, settled=self.is_idle)
        row.broken |= not any("took nothing" in line for line in self.served.lines)

    def idle(self) -> None:
        """Connections on which nothing comes, and requests that stop after their first line."""

        def hurt() -> str:
            host, port = self.served.http.rpartition("//")[2].split(":")
            with contextlib.ExitStack() as stack:
                for number in range(IDLE + HALF_OPEN):
                    one = stack.enter_context(socket.create_connection((host, int(port)), 10))
                    if number >= IDLE:
                        one.sendall(b"POST /v2/models/gpt_sovits_v4/infer HTTP/1.1\r\n")
                time.sleep(5.0)
            return f"{IDLE} idle and {HALF_OPEN} half-open ones for 5 s"

        self.during("idle", "connections", hurt, settled=lambda: True)

    def soak(self, minutes: float) -> None:
        """A process of a model, any one, is killed every minute."""
        draw = random.Random(self.seed)
        first: dict[str, int] = {}
        kills: list[str] = []

        def hurt() -> str:
            begun = time.monotonic()
            end = begun + 60 * minutes
            while time.monotonic() < end:
                time.sleep(min(KILL_EVERY / 2, max(0.0, end - time.monotonic())))
                if not first:
                    first.update(self._memories())
                model = draw.choice(MODELS)
                if pid := self.served.stub(model):
                    os.kill(pid, signal.SIGKILL)
                    kills.append(f"{time.monotonic() - begun:.1f} s: {model}")
                time.sleep(min(KILL_EVERY / 2, max(0.0, end - time.monotonic())))
            return f"{len(kills)} kills in {minutes:g} min; {self._grown(first)}"

        row = self.during("soak", "every minute", hurt, settled=self.is_idle)
        row.kills = kills
        self._on_row(self.rows)

    def again_and_again(self, faults: list[str], models: list[str], times: int) -> None:
        """Each fault to a process of each model, so many times in turn; then what memory became."""
        first: dict[str, int] = {}
        with self._new_clients() as self._clients:
            for _ in range(times):
                for fault in faults:
                    for model in models:
                        self.stub(fault, model)
                first = first or self._memories()
        self._clients = None
        note = f"{times * len(faults) * len(models)} faults; {self._grown(first)}"
        self.add(Row("memory", "of all processes", note=note))

    def _grown(self, first: dict[str, int]) -> str:
        """Which processes, or their heirs, need 5 % and 5 MiB more than at first."""
        growth = {
            name: f"{first[name]} to {size} MiB"
            for name, size in self._memories().items()
            if name in first and size > 1.05 * first[name] + 5
        }
        return f"grown: {growth}" if growth else "no process has grown by 5 %"

    def _memories(self) -> dict[str, int]:
        """Memory in MiB of tritonserver and of each model's process."""
        stubs = processes.living_stubs(self.served.triton)
        sizes = {f"{stub.model} {stub.instance}": memory(stub.pid) for stub in stubs}
        return {"tritonserver": memory(self.served.triton), **sizes}

    def fuzz(self, requests: int, *, fatal: bool) -> None:
        """Requests with wrong types, shapes, values, names and ids, and random cancellations."""
        fuzzer = Fuzzer(self.served.http, self.served.grpc, self.seed, fatal=fatal)
        row = self.during(
            "fuzz", f"seed {self.seed}", lambda: fuzzer.run(requests), settled=lambda: True
        )
        row.errors = {**row.errors, **fuzzer.outcomes}
        row.broken |= any(outcome.endswith((" 500", " INTERNAL")) for outcome in fuzzer.outcomes)

    def is_idle(self) -> bool:
        """Whether no request but the clients' own is under way."""
        metrics = next(s.split()[-1] for s in self.served.lines if s.startswith("  metrics"))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(metrics, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return False
        name = 'gsv_requests_in_flight{model="gpt_sovits_v4_stream",'
        return all(float(s.split()[-1]) <= self._count for s in lines if s.startswith(name))

    def full(self) -> None:
        """A full /dev/shm and a full disk under the log, in a room of their own."""
        room = "mount -t tmpfs -o size=96m tmpfs /dev/shm"
        allowed = subprocess.run(
            ["unshare", "-m", "sh", "-c", room], capture_output=True, text=True
        )
        if allowed.returncode:
            why = " ".join(allowed.stderr.split())[:100]
            self.add(Row("full", "/dev/shm", note=f"skipped: no mount namespace here ({why})"))
            return
        disk = self._folder / "disk"
        disk.mkdir()
        room += f" && mount -t tmpfs -o size=256k tmpfs {disk}"
        whole = self.served
        log = self._folder / "full.log"
        self.served = Served(
            self._repository, log, room, (f"--log-file={disk}/triton.log", "--recoveries=1000")
        )
        inside = Path(f"/proc/{self.served.process.pid}/root")
        try:
            for what, file in (
                ("/dev/shm", inside / "dev/shm/filler"),
                ("disk", inside / str(disk).lstrip("/") / "filler"),
            ):
                self.during("full", what, lambda file=file: fill(file, 5.0), settled=lambda: True)
        finally:
            self.served.end()
            self.served = whole

    def end_idle(self) -> None:
        """SIGTERM while a connection is open."""
        kept = http.client.HTTPConnection(self.served.http.rpartition("//")[2])
        kept.request("GET", "/v2/health/live")
        kept.getresponse().read()
        seconds = self.served.end()
        left = self.served.left_over()
        row = Row("end", "idle, a connection open", seconds, note=f"{len(left)} regions left")
        row.broken = seconds > 3.0 or bool(left)
        self.add(row)
        kept.close()

    def end_busy(self) -> None:
        """SIGTERM while clients go on asking."""
        self.served = Served(self._repository, self._folder / "busy.log")
        clients = Clients(self.served, self._count)
        time.sleep(2.0)
        begun = time.monotonic()
        seconds = self.served.end()
        clients.close()
        calls = [call for call in clients.calls if call.began < begun < call.ended]
        row = Row("end", "clients go on asking", seconds)
        row.failed = sum(bool(call.error) for call in calls)
        row.answered = len(calls) - row.failed
        row.slowest = slowest(calls, begun)
        row.errors = dict(Counter(call.error for call in clients.calls if call.error))
        row.broken = seconds > 15.0 or bool(self.served.left_over())
        self.add(row)

    def end_killed(self) -> None:
        """SIGKILL of gsv serve."""
        self.served = Served(self._repository, self._folder / "killed.log")
        pids = [self.served.triton, *(s.pid for s in processes.living_stubs(self.served.triton))]
        begun = time.monotonic()
        self.served.end(signal.SIGKILL)
        while not all(map(processes.ended, pids)) or self.served.left_over():
            if time.monotonic() - begun > 30:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        row = Row("end", "SIGKILL of gsv serve", seconds, note="until nothing was left")
        row.broken = seconds > 5.0
        self.add(row)


def memory(pid: int) -> int:
    """Resident memory of a process in MiB; 0 if there is none."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20
    return 0


def fill(file: Path, seconds: float) -> str:
    """Fill the file system that ``file`` is on for a while; it must be a small one."""
    stat = os.statvfs(file.parent)
    size = stat.f_blocks * stat.f_frsize
    if size > 128 << 20:
        raise SystemExit(f"{file.parent}: {size >> 20} MiB: not the small one that was mounted")
    written = 0
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as sink:
        while True:
            written += sink.write(bytes(4096))
    time.sleep(seconds)
    file.unlink()
    return f"{written >> 10} KiB for {seconds:g} s"


def line_of(row: Row) -> str:
    """A row of the table."""
    back = f"{row.back:6.1f}" if row.back is not None else "     -"
    again = "yes" if row.restarted else ""
    return (
        f"{'BROKEN' if row.broken else '':<7}{row.fault:<7}{row.what:<24}{back}{row.answered:9}"
        f"{row.failed:8}{row.longest:10.1f}{row.normal:7.1f}{row.beyond:7.1f}  {again:<6}{row.note}"
    )


@contextlib.contextmanager
def tiny_repository(given: Path | None, instances: int) -> Iterator[Path]:
    """The repository given, or one with tiny random weights; a copy, for several instances."""
    if given is not None and instances == 1:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="gsv-chaos-") as folder:
        made = Path(folder) / "model_repository"
        if given is not None:
            shutil.copytree(given, made)
            shutil.copytree(given.parent / "voices", made.parent / "voices")
            multiply(made, instances)
            yield made
            return
        prepare = "from gsv.commands.prepare import prepare; prepare()"
        subprocess.run(
            [sys.executable, "-c", prepare, "--demo", "tiny", "--out", str(made)],
            check=True, capture_output=True,
        )  # fmt: skip
        multiply(made, instances)
        yield made


def multiply(repository: Path, instances: int) -> None:
    """Several instances of each model that has one on every GPU, each a group of its own."""
    groups = ", ".join(
        f'{{ count: 1 kind: KIND_CPU host_policy: "cpu{n}" }}' for n in range(instances)
    )
    for config in repository.glob("*/config.pbtxt") if instances > 1 else []:
        text = config.read_text(encoding="utf-8")
        text = text.replace("[ { count: 1 kind: KIND_AUTO } ]", f"[ {groups} ]")
        config.write_text(text, encoding="utf-8")


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--only",
    default=",".join(fault for fault in FAULTS if fault not in NOT_BY_DEFAULT),
    help="Kinds of faults.",
    show_default=True,
)
@click.option("--models", default=",".join(MODELS), help="Whose processes are hurt.")
@click.option("--short", is_flag=True, help="A minute of it, for continuous integration.")
@click.option("--clients", default=8, show_default=True, help="That ask all the time.")
@click.option("--requests", default=2000, show_default=True, help="Of the fuzzing.")
@click.option(
    "--fatal", is_flag=True, help="Fuzz also with what is known to end Triton (docs/versions.md)."
)
@click.option(
    "--streams", default=STREAMS_LEFT, show_default=True, help="That leave, or are not read."
)
@click.option("--instances", default=1, show_default=True, help="Of each model with a network.")
@click.option("--repeat", default=1, show_default=True, help="Times of each kill, stop and hang.")
@click.option("--minutes", default=10.0, show_default=True, help="Of the soak.")
@click.option("--seed", default=1, show_default=True, help="Of the fuzzing and of who leaves.")
@click.option("--logs", type=click.Path(file_okay=False, path_type=Path), help="Keep logs here.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="JSON.")
def main(
    repository: Path | None,
    only: str,
    models: str,
    short: bool,
    clients: int,
    requests: int,
    fatal: bool,
    streams: int,
    instances: int,
    repeat: int,
    minutes: float,
    seed: int,
    output: Path | None,
    logs: Path | None,
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its server must not stay behind
    wanted = only.split(",")
    if unknown := set(wanted) - set(FAULTS):
        raise click.UsageError(f"--only {','.join(sorted(unknown))}: allowed: {','.join(FAULTS)}")
    chosen = models.split(",")
    if short:
        clients, requests = min(clients, 4), min(requests, 60)
        wanted = [fault for fault in wanted if fault in (*SHORT, "server", "fuzz", "end")]
    with (
        tiny_repository(repository, instances) as served,
        contextlib.nullcontext(logs)
        if logs
        else tempfile.TemporaryDirectory(prefix="gsv-chaos-log-") as folder,
    ):
        Path(folder).mkdir(parents=True, exist_ok=True)
        facts = {"seed": seed, "clients": clients, "instances": instances}

        def write(rows: list[Row]) -> None:
            if output:
                told = {**facts, "rows": list(map(dataclasses.asdict, rows))}
                output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

        chaos = Chaos(served, Path(folder), clients, seed, CALM_SECONDS[short], write)
        click.echo(
            "       fault  what                      back s answered  failed longest s normal "
            "beyond  anew"
        )
        try:
            hurting = [fault for fault in ("kill", "stop", "hang") if fault in wanted]
            if repeat > 1:
                chaos.again_and_again(hurting, chosen, repeat)
            else:
                for fault in hurting:
                    for model in SHORT[fault] if short else chosen:
                        chaos.stub(fault, model)
            if "server" in wanted:
                chaos.server(signal.SIGKILL)
                if not short:
                    chaos.server(signal.SIGSTOP)
            if "leave" in wanted:
                chaos.leave(streams)
            if "unread" in wanted:
                chaos.unread(streams)
            if "idle" in wanted:
                chaos.idle()
            if "soak" in wanted:
                chaos.soak(minutes)
            if "fuzz" in wanted:
                chaos.fuzz(requests, fatal=fatal)
            if "full" in wanted:
                chaos.full()
            if "end" in wanted:
                chaos.end_idle()
                if not short:
                    chaos.end_busy()
                    chaos.end_killed()
        finally:
            chaos.served.end()
    sys.exit(any(row.broken for row in chaos.rows))


if __name__ == "__main__":
    main()
