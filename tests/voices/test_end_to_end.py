"""Whole answers in many voices, with the folder changing under the requests."""

from __future__ import annotations

import concurrent.futures
import pickle
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.files import marker_bomb, save_pickle
from numpy.typing import NDArray
from voices.voice_files import make_voice, write_wave
from voices.weights_files import full_file, gpt_file, lora_file

from gsv.checkpoints.demo import make_demo
from gsv.checkpoints.prepare import Files, prepare
from gsv.checkpoints.text_data import Sources
from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv.errors import InvalidRequest, Unreachable, VoiceError
from gsv.offline import LocalModels, LocalToken, Offline
from gsv.stages.base import Place
from gsv.stages.calls import StageCall
from gsv.stages.speech import PublicRequest, SpeechStage
from gsv.voices.features import FOLDER, kept_files

TEXT = "Hello there."
STEPS = 2
SETTINGS = {"semantic_gpt": {"max_tokens": "12", "voice_slots": "4"}}
OWN = "[sampling]\ntop_k = 1\nspeed = 1.5"
CALM = "[references.calm]\nreference = 'calm.wav'\ntext = 'Calm words.'"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo repository and voices of every kind."""
    root = tmp_path_factory.mktemp("end_to_end")
    make_demo("tiny", root / "demo")
    prepare(
        Files.find(root / "demo"), root / "repository", voices=root / "voices", text=Sources(),
        replace=False, demo=True, report=lambda line: None,
    )  # fmt: skip
    voices, shapes = root / "voices", Shapes.of(root / "repository")
    write_wave(make_voice(voices / "plain", CALM, seed=1) / "calm.wav", seed=2)
    make_voice(voices / "own", OWN, seed=3)
    lora = lora_file(root / "l.pth")
    recording = write_wave(root / "take.wav", seed=4)
    tuned = NewVoice("tuned", recording, "Words.", "en", gpt_file(root / "g.ckpt"), lora)
    add_voice(voices, tuned, shapes)
    full = NewVoice("full", recording, "Words.", "en", None, full_file(root / "f.pth"))
    add_voice(voices, full, shapes)
    return root


@pytest.fixture(scope="module")
def speaker(root: Path) -> Iterator[Offline]:
    with Offline(root / "repository", settings=SETTINGS) as speaker:
        yield speaker


def say(speaker: Offline, voice: str, **options: Any) -> NDArray[np.float32]:
    values = {"text": TEXT, "seed": 3, "sample_steps": STEPS, "pause_seconds": 0.0, **options}
    return speaker.say(voice=voice, **values).audio


def same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() < 2e-3)


VOICES = ("plain", "plain/calm", "own", "tuned", "full")


def test_voices_differ_and_company_changes_nothing(speaker: Offline) -> None:
    alone = {voice: say(speaker, voice) for voice in VOICES}
    for index, voice in enumerate(VOICES):
        for other in VOICES[:index]:
            assert not same(alone[voice], alone[other]), (voice, other)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda voice: say(speaker, voice), VOICES * 2))
    for voice, answer in zip(VOICES * 2, answers, strict=True):
        assert same(answer, alone[voice]), voice


def test_defaults_of_a_voice(speaker: Offline) -> None:
    own = say(speaker, "own")
    assert same(say(speaker, "own", top_k=1, speed=1.5), own)
    assert not same(say(speaker, "own", speed=1.0), own)


def test_a_stream_speaks_in_the_voice_as_well(speaker: Offline) -> None:
    for voice in ("plain/calm", "tuned"):
        values = {"seed": 3, "sample_steps": STEPS, "pause_seconds": 0.0}
        chunks = [c.audio for c in speaker.stream(text=TEXT, voice=voice, **values)]
        whole = say(speaker, voice)
        # Chunks hear less of the sentence than the whole does: alike, not equal.
        assert abs(sum(map(len, chunks)) - len(whole)) <= 480


def test_errors(speaker: Offline, root: Path) -> None:
    for voice in ("nobody", "plain/angry", "../plain", "/etc"):
        with pytest.raises(InvalidRequest, match="VOICE"):
            say(speaker, voice)
    make_voice(root / "voices" / "broken", gpt="missing.ckpt")
    with pytest.raises(VoiceError, match="missing.ckpt"):
        say(speaker, "broken")
    write_wave(make_voice(root / "voices" / "short") / "reference.wav", seconds=2.5)
    with pytest.raises(VoiceError, match=r"^voice short: .*got 2.50 s; allowed: 3 to 10 s"):
        say(speaker, "short")


def test_features_are_shared_by_all_instances(speaker: Offline, root: Path) -> None:
    alone = {voice: say(speaker, voice) for voice in ("plain", "plain/calm", "tuned")}
    kept = kept_files(root / "voices" / "plain")
    assert sorted(file.kind for file in kept) == ["acoustic", "acoustic", "text", "text"]
    (broken,) = [f for f in kept_files(root / "voices" / "tuned") if f.kind == "acoustic"]
    path = root / "voices" / "tuned" / FOLDER / broken.name
    path.write_bytes(path.read_bytes()[:1000])
    with Offline(root / "repository", settings=SETTINGS) as other:
        for voice, wave in alone.items():
            assert same(say(other, voice), wave), voice
            assert same(say(other, voice), wave), voice
        for model in ("reference_encoder", "text_frontend"):
            told = other.models._stages[model].voice_metrics.take()
            found = {(c.voice, c.detail): c.value for c in told if c.family == "features"}
            tuned = "computed" if model == "reference_encoder" else "disk"
            assert found == {
                ("plain", "disk"): 2, ("plain", "memory"): 2,
                ("tuned", tuned): 1, ("tuned", "memory"): 1,
            }  # fmt: skip
    assert not [f for f in kept_files(root / "voices" / "tuned") if f.problem], "made anew"


def test_a_tampered_cache_harms_nobody(speaker: Offline, root: Path) -> None:
    """Whoever may write the folder may write features as well: checked, and his own voice only."""
    make_voice(root / "voices" / "eve", seed=8)
    wanted = say(speaker, "eve")
    cache = root / "voices" / "eve" / FOLDER
    others = root / "voices" / "plain" / FOLDER
    for file in kept_files(root / "voices" / "eve"):
        (theirs, *_) = [f for f in kept_files(root / "voices" / "plain") if f.kind == file.kind]
        swapped = (others / theirs.name).read_bytes()
        (cache / file.name).write_bytes(swapped)
    with Offline(root / "repository", settings=SETTINGS) as other:
        assert not same(say(other, "eve"), wanted), "her own folder says so"
        assert same(say(other, "plain"), say(speaker, "plain"))


def hostile(root: Path) -> dict[str, tuple[str, dict[str, Path]]]:
    """Weights made to do harm or for something else, and what is said about them."""
    marker = root / "exploded"
    bomb = save_pickle(pickle.dumps({"weight": marker_bomb(marker)}), root / "bomb.pth")
    (root / "cut.pth").write_bytes((root / "l.pth").read_bytes()[:5_000])
    with (root / "hole.pth").open("wb") as file:
        file.truncate(1 << 20)
    nan = lora_file(root / "nan.pth", 8, scale=float("nan"))
    return {
        "bomb_gpt": ("x.pth: ", {"gpt": bomb}),
        "bomb_sovits": ("x.pth: ", {"sovits": bomb}),
        "cut": ("x.pth: ", {"sovits": root / "cut.pth"}),
        "hole": ("it is not a checkpoint", {"gpt": root / "hole.pth"}),
        "nan": ("does not fit the base model", {"sovits": nan}),
        "rank": ("lora_rank is 129; allowed", {"sovits": lora_file(root / "129.pth", 129)}),
        "v3": ("v3 SoVITS LoRA", {"sovits": lora_file(root / "v3.pth", header=b"03")}),
        "swapped": ("wanted: the semantic model", {"gpt": root / "l.pth"}),
    }


def test_hostile_weights_in_the_folder(speaker: Offline, root: Path) -> None:
    plain = say(speaker, "plain")
    for name, (message, weights) in hostile(root).items():
        ((kind, file),) = weights.items()
        made = make_voice(root / "voices" / name, **{kind: "x.pth"})
        (made / "x.pth").write_bytes(file.read_bytes())
        for _ in range(2):
            with pytest.raises(VoiceError, match=f"^voice {name}: ") as caught:
                say(speaker, name)
            assert message in str(caught.value), name
            assert str(root) not in str(caught.value)
            assert "\n" not in str(caught.value)
        shutil.rmtree(made)
    assert not (root / "exploded").exists()
    assert same(say(speaker, "plain"), plain)


def test_a_folder_that_changes_all_the_time(speaker: Offline, root: Path) -> None:
    """Replaced voices answer in one of their versions, removed ones with the right error."""
    voices, shapes = root / "voices", Shapes.of(root / "repository")
    lora = root / "l.pth"
    versions = [
        NewVoice("changing", write_wave(root / f"v{i}.wav", seed=10 + i), f"Words {i}.", "en", gpt,
                 lora if i % 2 else None)
        for i, gpt in enumerate([None, root / "g.ckpt", None])
    ]  # fmt: skip
    expected = []
    for version in versions:
        add_voice(voices, version, shapes, replace=True)
        speaker.models._stages["gpt_sovits_v4"]._voices.get("changing", fresh=True)
        expected.append(say(speaker, "changing"))
    alone = {voice: [say(speaker, voice)] for voice in ("plain", "tuned")} | {"changing": expected}
    done = threading.Event()
    errors: list[str] = []

    def client(seed: int) -> int:
        choice = random.Random(seed)
        count = 0
        while not done.is_set():
            voice = choice.choice(["plain", "tuned", "changing", "changing", "coming"])
            try:
                answer = say(speaker, voice)
            except InvalidRequest as error:
                if voice != "coming" or "allowed" not in str(error):
                    errors.append(f"{voice}: {error}")
            except Exception as error:
                errors.append(f"{voice}: {error!r}")
            else:
                allowed = alone["plain"] if voice == "coming" else alone[voice]
                if not any(same(answer, one) for one in allowed):
                    errors.append(f"{voice}: another voice")
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, seed) for seed in range(6)]
        for round_ in range(12):
            add_voice(voices, versions[round_ % 3], shapes, replace=True)
            if round_ % 2:
                remove_voice(voices, "coming")
            else:
                plain = NewVoice("coming", voices / "plain" / "reference.wav", "Some words.", "en")
                add_voice(voices, plain, shapes)
            done.wait(0.4)
        done.set()
        counts = [client.result() for client in clients]
    assert errors == []
    assert sum(counts) > 20


class Dying:
    """The models of a server; the process of one dies with the first call that it gets."""

    def __init__(self, models: LocalModels, dies: str) -> None:
        self._models, self._dies = models, dies
        self.calls: list[str] = []

    def token(self, request_id: str) -> LocalToken:
        return self._models.token(request_id)

    def __call__(self, call: StageCall[Any], token: LocalToken) -> Any:
        self.calls.append(call.model)
        if call.model == self._dies and self.calls.count(call.model) == 1:
            raise Unreachable(f"{call.model}: the process that worked on the request died")
        return self._models(call, token)


@pytest.mark.parametrize(
    "dies", ["text_frontend", "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder"]
)
def test_a_stage_that_dies_costs_a_whole_answer_its_own_work_alone(
    root: Path, speaker: Offline, dies: str
) -> None:
    dying, public = Dying(speaker.models, dies), LocalModels()
    place = Place(root / "repository" / "gpt_sovits_v4" / "1")
    settings = SpeechStage.settings_type(voice_folder="../voices")
    public.add("gpt_sovits_v4", SpeechStage(place, settings, dying))
    request = PublicRequest(
        TEXT, voice="plain", seed=3, sample_steps=STEPS, pause_seconds=0.0
    )  # fmt: skip
    (answer,) = public.answers("gpt_sovits_v4", request)
    public.close()
    assert same(answer.audio, say(speaker, "plain"))
    again = {model: count - 1 for model, count in Counter(dying.calls).items()}
    # The last call ends the sequence of the whole answer.
    assert again == {
        **dict.fromkeys(again, 0),
        "semantic_gpt": 1,
        dies: 1 + (dies == "semantic_gpt"),
    }
    assert len(again) == 5
