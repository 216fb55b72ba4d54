"""Reads tritonserver's log while it runs: what is loading, what failed, what an operator must see.

Triton writes ``I1122 16:37:13.1 14913 file.cc:12] "message"`` with I, W, E or F in front, plus
tables and whatever the models themselves write.
"""

from __future__ import annotations

import collections
import json
import re
import signal
import threading
from collections.abc import Callable
from typing import IO

LINE = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ \d+ (?P<source>[^\]]+)\] ?(?P<message>.*)")
LOADING = re.compile(r"loading: (?P<model>[^:]+):\d+")
LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL)
REFUSED = re.compile(
    r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL
)
CODE = re.compile(r"^(Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown): ")
STUB_DIED = re.compile(r"^Stub process '[^']+' is not healthy\.")

# Said by every tritonserver on a machine without a GPU; they mean nothing there.
HARMLESS = (
    "CudaDriverHelper has not been initialized",
    "Unable to allocate pinned system memory",
    "unable to create stream for",
    "DCGM unable to start",
    "Failed to initialize NVML",
)

# Said about a model whose own message is in ``failures`` already.
ECHOES = (
    "Failed to create instance",
    "which has no loaded version",
    "contains models that are not available",
)

# Triton says so before it tells the stack and ends, or hangs: that needs memory, and a heap that is
# corrupted keeps its lock.
CRASH = re.compile(r"Signal \((?P<number>\d+)\) received\.")
FATAL = {signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV}
# What the C++ library says of an exception that nobody caught, before Triton gets signal 6.
THROWN = re.compile(r"terminate called after throwing an instance of '(?P<kind>[^']+)'")
WHAT = re.compile(r"\s*what\(\):\s*(?P<what>.*)")
FRAME = re.compile(r"\s*\d+# ")  # of a crash: one line for each call on the stack
WRONG_USAGE = re.compile(r"error: |.*unrecognized option|Bad option|Invalid option")

KEPT_LINES = 200
JOIN_SECONDS = 5.0


class ServerLog:
    """Follows one server's output in a thread of its own until it ends.

    ``models`` maps each model to ``loading`` or ``ready``, ``failures`` each broken one to its
    reason. ``on_line(line, important)`` is called for every line, in the reading thread; important
    are warnings and errors, except for the harmless ones and those about ``failures``.
    ``crash`` is the signal by which Triton said that it crashed; ``on_crash`` is called with it.
    """

    def __init__(
        self,
        on_line: Callable[[str, bool], None],
        on_end: Callable[[], None],
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:
        self.models: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.began = False  # a line of Triton's own has come, so it has read its arguments
        self.crash: signal.Signals | None = None
        self.broken_sink: BaseException | None = None
        self._thrown = ""  # the exception that ended the server
        self._errors: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._others: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._on_line, self._on_end, self._on_crash = on_line, on_end, on_crash
        self._thread: threading.Thread | None = None

    def follow(self, stream: IO[bytes]) -> None:
        """Read ``stream`` to its end in a thread."""
        self._thread = threading.Thread(
            target=self._read, args=(stream,), name="triton-log", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Wait until the stream has ended; not for long, since a stranger may hold it open."""
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def reason(self) -> str:
        """Why the server does not run, in one line."""
        if self._thrown:
            return self._thrown
        for model, reason in self.failures.items():
            return f"model {model} failed to load: {reason}"
        for line in (*reversed(self._errors), *reversed(self._others)):
            return one_line(line)
        return "it said nothing"

    def _read(self, stream: IO[bytes]) -> None:
        try:
            with stream:
                for raw in stream:
                    self.feed(raw.decode("utf-8", "replace").rstrip("\n"))
        finally:
            self._on_end()

    def feed(self, line: str) -> None:
        """Take one line."""
        match = LINE.match(line)
        harmless = any(text in line for text in HARMLESS)
        important = not harmless and match is not None and match["level"] in "WEF"
        if match:
            self.began = True
            message = _unquote(match["message"])
            self._note_model(message)
            echo = any(text in message for text in ECHOES)
            if match["level"] in "EF" and not harmless and not echo:
                self._errors.append(message)
            important = important and not echo and not _is_failure(message)
        elif WRONG_USAGE.match(line):
            self._errors.append(line)
        elif thrown := THROWN.match(line):
            self._thrown = f"uncaught {thrown['kind']}"
        elif self._thrown and (what := WHAT.match(line)):
            self._thrown += f": {what['what']}"
        elif (crash := _crash_in(line)) is not None:
            self._others.append(line)
            if self.crash is None:
                self.crash = crash
                self._on_crash()
        elif line and line[0] not in "|+" and not harmless and not FRAME.match(line):
            self._others.append(line)
        self._pass_on(line, important)

    def _note_model(self, message: str) -> None:
        if found := LOADING.fullmatch(message):
            self.models[found["model"]] = "loading"
        elif found := LOADED.fullmatch(message):
            self.models[found["model"]] = "ready"
        elif found := FAILED.fullmatch(message) or REFUSED.fullmatch(message):
            self.failures.setdefault(found["model"], explain(found["reason"]))

    def _pass_on(self, line: str, important: bool) -> None:
        if self.broken_sink is None:
            try:
                self._on_line(line, important)
            except (OSError, ValueError) as error:
                # A full disk or a closed terminal must not stop the reading: the server would
                # block on a full pipe. Whoever owns the sink finds the error here.
                self.broken_sink = error


def _is_failure(message: str) -> bool:
    """Whether a line says that a model could not be loaded, which ``failures`` holds."""
    return bool(FAILED.fullmatch(message) or REFUSED.fullmatch(message))


def _crash_in(line: str) -> signal.Signals | None:
    """The signal of a crash that a line tells of."""
    found = CRASH.fullmatch(line.strip())
    number = int(found["number"]) if found else 0
    return signal.Signals(number) if number in FATAL else None


def explain(reason: str) -> str:
    """A model's own message, without Triton's code in front and the traceback behind."""
    text = one_line(CODE.sub("", reason.split("\n\nAt:\n")[0]))
    if STUB_DIED.match(text):
        return f"{text} Its process died while loading (memory?); see --verbose"
    return text


def one_line(text: str) -> str:
    """``text`` with every run of white space as one space."""
    return " ".join(text.split())


def _unquote(message: str) -> str:
    if message.startswith('"'):
        try:
            text = json.loads(message)
        except ValueError:
            return message.strip('"')
        return str(text)
    return message
