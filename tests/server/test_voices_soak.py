"""Many voices of every kind, many clients, the folder changing all the time.

Every answer is in the right voice: it is the one that this voice gave alone, by seed. Nothing fails
but a request for a voice that has been removed. Memory stays where it was.

It runs where GSV_SOAK_SECONDS says how long; from a minute on there are 50 voices. The weights of
all voices do not fit into the memory budget at once.

    GSV_SOAK_SECONDS=180 python -m pytest -m server tests/server/test_voices_soak.py -s
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import random
import re
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from voices.voice_files import write_wave
from voices.weights_files import full_file, gpt_file, lora_file

from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions
from gsv_client import Client
from gsv_client.errors import InvalidRequest

# A server of its own, for its small budgets, is more than every run of the tests can afford.
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif("GSV_SOAK_SECONDS" not in os.environ, reason="GSV_SOAK_SECONDS is not set"),
]

SECONDS = float(os.environ.get("GSV_SOAK_SECONDS", "10"))
STABLE, CHANGING = (40, 10) if SECONDS >= 60 else (10, 2)
CLIENTS = 16
TEXT = "Hello there."
STEPS = 2
SEED = 3
RANKS = (8, 16, 32, 64)
EDIT_SECONDS = 1.5  # between two changes of the folder
# MiB for all voices' own weights: more than the clients use at once, less than all of them need
# (50 voices: 71 and 27 MiB).
BUDGETS = {"semantic_gpt": 48, "sovits_v4": 20} if SECONDS >= 60 else {
    "semantic_gpt": 12, "sovits_v4": 6,
}  # fmt: skip
ANSWER_SECONDS = 300.0  # a busy machine is slow
# Bytes by which any process may grow after the first third of the time: by then every process has
# seen its largest batch, and what grows from there on may grow for ever. Memory that the server and
# its processes share is counted in each.
GROWTH_LIMIT = 250 << 20
Wave = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Files:
    """Recordings and checkpoints that voices are made of."""

    folder: Path

    def voice(self, name: str, kind: int) -> NewVoice:
        """One of the kinds: plain, own GPT, LoRA, both, with another recording each."""
        recording = write_wave(self.folder / f"{name}-{kind}.wav", seconds=3.2, seed=kind)
        gpt = sovits = None
        if kind % 4 in (1, 3):
            gpt = gpt_file(self.folder / f"{kind}.ckpt", seed=100 + kind)
        if kind % 4 in (2, 3):
            rank = RANKS[kind // 4 % len(RANKS)]
            sovits = lora_file(self.folder / f"{kind}.pth", rank, scale=1 + kind / 20)
        if kind % 11 == 10:
            sovits = full_file(self.folder / f"{kind}.pth", seed=200 + kind)
        return NewVoice(name, recording, f"Words number {kind}.", "en", gpt, sovits)


@dataclasses.dataclass
class Stage:
    """The server, its voices, and what each of them says alone."""

    server: EmbeddedServer
    voices: Path
    shapes: Shapes
    versions: dict[str, list[NewVoice]]
    alone: dict[str, list[Wave]] = dataclasses.field(default_factory=dict)

    def put(self, new: NewVoice) -> None:
        add_voice(self.voices, new, self.shapes, replace=True)

    def say(self, client: Client, voice: str) -> Wave:
        return client.say(TEXT, voice=voice, seed=SEED, sample_steps=STEPS).samples


@pytest.fixture(scope="module")
def stage(demo_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("soak")
    repository, voices = root / "model_repository", root / "voices"
    shutil.copytree(demo_repository, repository)
    shutil.copytree(demo_repository.parent / "voices" / "sample", voices / "sample")
    for model, budget in BUDGETS.items():
        path = repository / model / "config.pbtxt"
        text, count = re.subn(
            r'("memory_budget_mib" value: \{ string_value: ")\d+', rf"\g<1>{budget}",
            path.read_text(encoding="utf-8"),
        )  # fmt: skip
        assert count == 1
        path.write_text(text, encoding="utf-8")
    files = Files(root)
    versions = {f"stable{n:02}": [files.voice(f"stable{n:02}", n)] for n in range(STABLE)}
    for n in range(CHANGING):
        name = f"changing{n}"
        versions[name] = [files.voice(name, 50 + n), files.voice(name, 71 + n)]
    log = (root / "triton.log").open("w", encoding="utf-8")
    with log, EmbeddedServer(
        repository, ServerOptions(ready_timeout=300),
        on_line=lambda line, important: print(line, file=log, flush=True),  # noqa: T201
    ) as server:  # fmt: skip
        yield Stage(server, voices, Shapes.of(repository), versions)


def hear_alone(stage: Stage) -> None:
    """What each version of each voice says when nobody else speaks."""
    with Client(stage.server.grpc_url, protocol="grpc") as client:
        for name, versions in stage.versions.items():
            for version in versions:
                stage.put(version)
                time.sleep(1.1 if len(versions) > 1 else 0)  # a change is live within a second
                stage.alone.setdefault(name, []).append(stage.say(client, name))
        for number, name in enumerate(list(stage.versions)[:STABLE:8]):
            recording = write_wave(stage.voices.parent / "calm.wav", 3.4, seed=300 + number)
            stage.put(NewVoice(f"{name}/calm", recording, "Calm words.", "en"))
            stage.alone[f"{name}/calm"] = [stage.say(client, f"{name}/calm")]


def same(one: Wave, other: Wave) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() < 2e-3)


class Soak:
    """The clients, the editor, and what they saw."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.slowest = 0.0
        self._end = time.monotonic() + SECONDS
        self._lock = threading.Lock()

    def run(self) -> None:
        editor = threading.Thread(target=self._edit)
        editor.start()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            for done in [pool.submit(self._client, number) for number in range(CLIENTS)]:
                done.result()
        editor.join()

    def _open(self) -> bool:
        return time.monotonic() < self._end

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _edit(self) -> None:
        stage, draw = self.stage, random.Random(1)
        changing = [name for name in stage.versions if name.startswith("changing")]
        turns = {name: itertools.cycle(stage.versions[name]) for name in changing}
        coming = {f"coming{n}": stage.versions[f"stable{n:02}"][0] for n in range(4)}
        there: set[str] = set()
        while self._open():
            name = draw.choice([*changing, *coming])
            if name in turns:
                stage.put(next(turns[name]))
                self._count("replaced")
            elif name in there:
                remove_voice(stage.voices, name)
                there.discard(name)
                self._count("removed")
            else:
                stage.put(dataclasses.replace(coming[name], name=name))
                there.add(name)
                self._count("added")
            time.sleep(EDIT_SECONDS)

    def _client(self, number: int) -> None:
        draw = random.Random(number)
        url, protocol = (
            (self.stage.server.grpc_url, "grpc")
            if number % 2
            else (self.stage.server.http_url, "http")
        )
        known = list(self.stage.alone)
        with Client(url, protocol=protocol, timeout=ANSWER_SECONDS) as client:
            while self._open():
                coming = draw.random() < 0.1
                voice = f"coming{draw.randrange(4)}" if coming else draw.choice(known)
                started = time.monotonic()
                try:
                    self._ask(client, voice, streamed=draw.random() < 0.15)
                except InvalidRequest as error:
                    if not coming or "allowed" not in str(error):
                        self.errors.append(f"{voice}: {error}")
                    self._count("not there")
                except Exception as error:
                    self.errors.append(f"{voice}: {error!r}")
                with self._lock:
                    self.slowest = max(self.slowest, time.monotonic() - started)

    def _ask(self, client: Client, voice: str, *, streamed: bool) -> None:
        alone = self.stage.alone
        plain = voice.replace("coming", "stable0") if voice.startswith("coming") else voice
        wanted = alone[plain]
        if streamed:
            chunks = client.stream(TEXT, voice=voice, seed=SEED, sample_steps=STEPS)
            length = sum(len(chunk.samples) for chunk in chunks)
            if all(abs(length - len(one)) > 480 for one in wanted):
                self.errors.append(f"{voice}: a stream of {length} samples")
            self._count("streamed")
            return
        answer = self.stage.say(client, voice)
        if not any(same(answer, one) for one in wanted):
            other = [n for n, waves in alone.items() if any(same(answer, w) for w in waves)]
            self.errors.append(f"{voice}: sounds like {other or 'nobody'}")
        self._count("answered")


def memory_of(pid: int) -> dict[str, int]:
    """Resident bytes of the server and each model's process, by name."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if ":" in line
            )
            command = (status.parent / "cmdline").read_bytes().decode().split("\0")
        except (OSError, ValueError):
            continue
        mine = int(fields["Pid"]) == pid
        if not mine and int(fields["PPid"]) != pid:
            continue
        model = [re.sub(r".*/([^/]+)/\d+/model\.py", r"\1", part) for part in command]
        names = [name for name, part in zip(model, command, strict=True) if name != part]
        name = "tritonserver" if mine else (names or [fields["Pid"].strip()])[0]
        found[name] = int(fields["VmRSS"].split()[0]) << 10
    return found


def figures(server: EmbeddedServer, family: str, voice: str = "") -> float:
    """Sum of a metric's series, of all voices or of one."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    mine = f'voice="{voice}' + ('"' if voice else "")
    found = [line for line in lines if line.startswith(family + "{") and mine in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_every_answer_is_in_the_right_voice(stage: Stage) -> None:
    hear_alone(stage)
    waves = [(n, wave) for n, versions in stage.alone.items() for wave in versions]
    for (name, one), (other_name, other) in itertools.combinations(waves, 2):
        assert not same(one, other), f"{name} and {other_name} can't be told apart"
    soak = Soak(stage)
    sizes: list[dict[str, int]] = []
    sampler = threading.Timer(SECONDS / 3, lambda: sizes.append(memory_of(stage.server.pid)))
    sampler.start()
    soak.run()
    sampler.join()
    after = memory_of(stage.server.pid)
    grown = {name: after[name] - size for name, size in sizes[0].items() if name in after}
    loads = figures(stage.server, "gsv_voice_loads_total")
    resident = figures(stage.server, "gsv_voice_resident_bytes")
    print(  # noqa: T201
        f"\n{len(stage.alone)} voices, {CLIENTS} clients, {SECONDS:.0f} s: {dict(soak.counts)}, "
        f"slowest {soak.slowest:.1f} s, {loads:.0f} loads, {resident / (1 << 20):.1f} MiB resident "
        f"of {sum(BUDGETS.values())}, memory "
        + ", ".join(f"{n} {after[n] >> 20} ({g / (1 << 20):+.0f})" for n, g in grown.items())
        + " MiB"
    )
    assert not soak.errors, "\n".join(soak.errors)
    assert soak.counts["answered"] > SECONDS / 2
    assert all(soak.counts[what] for what in ("replaced", "added", "removed"))
    assert resident <= sum(BUDGETS.values()) << 20
    assert len(grown) >= 8
    assert {name: size for name, size in grown.items() if size > GROWTH_LIMIT} == {}
    removed_voices_leave_no_series(stage)


def removed_voices_leave_no_series(stage: Stage) -> None:
    assert figures(stage.server, "gsv_voice_requests_total", "changing0")
    remove_voice(stage.voices, "changing0")
    end = time.monotonic() + 30
    families = ("gsv_voice_requests_total", "gsv_voice_resident_bytes", "gsv_voice_loads_total")
    while any(figures(stage.server, family, "changing0") for family in families):
        assert time.monotonic() < end
        time.sleep(0.5)
