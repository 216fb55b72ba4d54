"""LoRA of many voices in one batch: against merged weights, upstream's arrays, and itself alone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acoustic_models import sovits
from golden import case_weights, has_case, load_case, sovits_config
from torch import Tensor
from torch.testing import assert_close
from voices.test_weight_cache import Recorder
from voices.voice_files import make_voice, write_wave
from voices.weights_files import full_file, lora_file, tiny_shapes

from gsv.checkpoints.lora import read_lora
from gsv.checkpoints.names.sovits import rename
from gsv.checkpoints.store import save_tensors
from gsv.checkpoints.voice_editing import NewVoice, add_voice
from gsv.checkpoints.voice_weights import read_quantizer, read_sovits, store_sovits
from gsv.constants import STYLE_BINS
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.errors import InvalidRequest
from gsv.models.adapters import gather
from gsv.models.sovits import SoVITS
from gsv.stages.base import Place
from gsv.stages.messages import MelRequest
from gsv.stages.sovits_v4 import Settings, SoVITSStage
from gsv.stages.sovits_voices import SoVITSVoices

RANKS = {"r8": 8, "r16": 16, "r32": 32, "r64": 64}
CONFIG = sovits_config("tiny")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder with the tiny base, beside it the LoRA files and a full fine-tune."""
    root = tmp_path_factory.mktemp("adapters")
    folder = root / "repository" / "sovits_v4" / "1"
    folder.mkdir(parents=True)
    save_tensors(sovits("tiny").state_dict(), folder / "sovits.safetensors")
    CONFIG.save(folder / "sovits.json")
    for name, rank in RANKS.items():
        lora_file(root / f"{name}.pth", rank, scale=1 + rank / 64)
    full_file(root / "full.pth")
    return folder


@pytest.fixture(scope="module")
def root(base_folder: Path) -> Path:
    """The folder around the repository, with a voice for each file: laid there or added."""
    root = base_folder.parents[2]
    for name in ("r8", "r16", "full"):
        made = make_voice(root / "voices" / name, sovits="own.pth")
        (made / "own.pth").write_bytes((root / f"{name}.pth").read_bytes())
    for name in ("r32", "r64"):
        new = NewVoice(
            name, write_wave(root / "take.wav"), "Words.", "en", None, root / f"{name}.pth"
        )
        add_voice(root / "voices", new, tiny_shapes())
    make_voice(root / "voices" / "plain")
    return root


@pytest.fixture
def speakers(base_folder: Path) -> Iterator[tuple[SoVITSVoices, FlowEngine]]:
    base = sovits("tiny")
    engine = FlowEngine(base.flow, slots=8)
    engine.start()
    yield SoVITSVoices(base_folder, base, engine, torch.float32), engine
    engine.stop()


def merged(path: Path) -> SoVITS:
    """A model whose weights have the LoRA in them, as upstream loads it."""
    lora = read_lora(path, CONFIG)
    model = SoVITS(CONFIG)
    model.load_state_dict(lora.merge(sovits("tiny").state_dict()), strict=True)
    return model.eval().requires_grad_(False)


def velocity(model: SoVITS, rows: int, adapters: Any = None, seed: int = 0) -> Tensor:
    """One estimate of ``rows`` rows of one random input."""
    generator = torch.Generator().manual_seed(seed)
    condition = torch.randn(rows, CONFIG.condition_channels, 40, generator=generator)
    prompt = torch.rand(rows, CONFIG.mel_channels, 12, generator=generator)
    noisy = torch.randn(rows, 40, CONFIG.mel_channels, generator=generator)
    flow = model.flow
    time = torch.linspace(0, 0.9, rows)
    modulation = flow.estimator.modulate(time, torch.full((rows,), 0.1))
    return flow.estimator(noisy, flow.embed(condition, prompt), modulation, None, adapters)


@pytest.mark.usefixtures("no_grad")
def test_one_batch_of_base_and_four_ranks(
    speakers: tuple[SoVITSVoices, FlowEngine], root: Path
) -> None:
    room, engine = speakers
    keys = [None, *RANKS]
    for name in RANKS:
        assert room.load(name, root / f"{name}.pth").adapter == name
    chosen = [engine._runner.adapters[key] if key else None for key in keys]
    assert [a.rank for a in chosen if a] == list(RANKS.values())
    base = sovits("tiny")
    together = velocity(base, 5, gather(chosen, base.flow.estimator.inverse_frequencies))
    for row, key in enumerate(keys):
        alone = velocity(merged(root / f"{key}.pth") if key else base, 5)
        assert_close(together[row], alone[row], atol=2e-4, rtol=1e-4)
    plain = velocity(base, 5)
    assert (together[1:] - plain[1:]).abs().amax(dim=(1, 2)).min() > 0.05, "it must be heard"
    assert gather([None, None], base.flow.estimator.inverse_frequencies) is None


@pytest.mark.golden
@pytest.mark.skipif(not has_case("tiny_lora"), reason="no tiny_lora case")
@pytest.mark.usefixtures("no_grad")
def test_upstreams_arrays(speakers: tuple[SoVITSVoices, FlowEngine], tmp_path: Path) -> None:
    room, engine = speakers
    case = load_case("tiny_lora")
    speaker = room.load("voice", lora_file(tmp_path / "lora_v4.pth"))
    model = speaker.model
    timbre = model.style(case.tensor("refer")[:, :STYLE_BINS])
    case.check("ge_lora", timbre)
    condition, _ = model.condition(
        case.tensor("codes")[0], None, case.tensor("phones"), None, timbre
    )
    case.check("fea_lora", condition)
    case.check("codes_lora", model.quantizer.extract_tokens(case.tensor("hubert"))[None])
    prompt, noise = case.tensor("prompt")[0], case.tensor("noise")[0]
    frames = prompt.shape[-1]
    job = FlowRequest(case.tensor("mu")[0].mT, prompt, steps=4, noise=noise[:, frames:])
    padding = torch.zeros_like(prompt)
    found = torch.cat([padding, engine.run(speaker.request(job))], dim=-1)[None]
    plain = torch.cat([padding, engine.run(job)], dim=-1)[None]
    case.check("x_lora", found)
    case.check("x_base", plain)


def test_the_reference_encoder_uses_the_voices_quantizer(tmp_path: Path) -> None:
    path = lora_file(tmp_path / "lora.pth")
    wanted = read_lora(path, CONFIG).replaced["quantizer.codebook"]
    assert torch.equal(read_quantizer(path, CONFIG)["codebook"], wanted)
    store_sovits(path, tmp_path / "stored.safetensors", CONFIG)
    assert torch.equal(read_quantizer(tmp_path / "stored.safetensors", CONFIG)["codebook"], wanted)
    assert set(read_quantizer(full_file(tmp_path / "full.pth"), CONFIG)) == {
        "codebook", "projection.weight", "projection.bias",
    }  # fmt: skip


def test_what_is_shared_and_what_is_not(
    speakers: tuple[SoVITSVoices, FlowEngine], root: Path
) -> None:
    room, engine = speakers
    base = sovits("tiny")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    voice = room.load("a", root / "r8.pth").model
    assert voice.flow is base.flow
    assert voice.text_encoder is base.text_encoder
    assert voice.wavenet is not base.wavenet
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in before.items())
    full = room.load("f", root / "full.pth")
    assert (full.flow, full.adapter) == ("f", "")
    assert full.model.flow is not base.flow


def _set(event: threading.Event, _: object) -> None:
    event.set()


def test_weights_leave_only_when_nothing_runs(
    speakers: tuple[SoVITSVoices, FlowEngine], root: Path
) -> None:
    room, engine = speakers
    for key, file in (("a", "r8"), ("f", "full")):
        speaker = room.load(key, root / f"{file}.pth")
        channels, mel = CONFIG.condition_channels, CONFIG.mel_channels
        job = FlowRequest(torch.zeros(channels, 400), torch.zeros(mel, 100), steps=50)
        ended = threading.Event()
        end = functools.partial(_set, ended)
        handle = engine.submit(speaker.request(job), end, end)
        with pytest.raises(InvalidRequest, match="in use"):
            room.unload(key, speaker)
        handle.cancel()
        assert ended.wait(30)
        room.unload(key, speaker)
        with pytest.raises(ValueError, match=key):
            engine.submit(speaker.request(job), lambda mel: None, lambda e: None)


def test_a_lora_that_replaces_more_is_a_base_of_its_own(
    speakers: tuple[SoVITSVoices, FlowEngine], root: Path, tmp_path: Path
) -> None:
    room, engine = speakers
    lora = read_lora(root / "r8.pth", CONFIG)
    more = {name: value for name, value in lora.replaced.items()}
    name = "flow.estimator.input.weight"
    more[name] = sovits("tiny").state_dict()[name] * 0.5
    tensors = dict(more)
    for key, pair in lora.projections.items():
        tensors |= {f"{key}.down": pair.down, f"{key}.up": pair.up}
    mark = '{"format": 1, "kind": "SoVITS LoRA", "rank": 8}'
    save_tensors(tensors, tmp_path / "more.safetensors", {"gsv_voice": mark})
    assert not isinstance(read_sovits(tmp_path / "more.safetensors", CONFIG), dict)
    speaker = room.load("more", tmp_path / "more.safetensors")
    assert (speaker.flow, speaker.adapter) == ("more", "")
    state = speaker.model.flow.estimator.input.weight
    assert_close(state, more[name])


def request(voice: str, seed: int = 3) -> MelRequest:
    rng = np.random.default_rng(seed)
    return MelRequest(
        tokens=rng.integers(0, 1024, 24, dtype=np.int32),
        token_counts=np.array([10, 14], np.int32),
        phonemes=rng.integers(0, 700, 12, dtype=np.int32),
        phoneme_counts=np.array([5, 7], np.int32),
        prompt_tokens=rng.integers(0, 1024, 20, dtype=np.int32),
        prompt_phonemes=rng.integers(0, 700, 9, dtype=np.int32),
        reference_spectrum=rng.random((704, 40), np.float32),
        reference_mel=rng.random((100, 80), np.float32),
        sample_steps=4,
        seed=seed,
        voice=voice,
    )


def open_stage(folder: Path, **settings: Any) -> SoVITSStage:
    stage = SoVITSStage(Place(folder), Settings(**settings))
    stage.warm_up()
    return stage


def mel_of(recorder: Recorder) -> Tensor:
    assert recorder.done.wait(60)
    (result,) = recorder.events
    assert not isinstance(result, BaseException), result
    return torch.as_tensor(result.mel)


def ask(stage: SoVITSStage, voice: str) -> Recorder:
    recorder = Recorder()
    stage.submit(request(voice), recorder)
    return recorder


def test_requests_of_many_voices_at_once(base_folder: Path, root: Path) -> None:
    """Each equals the answer of a server that has this voice's merged weights as its base."""
    names = ["plain", *RANKS, "full"]
    alone = {}
    for name in names:
        folder = root / "alone" / name / "sovits_v4" / "1"
        folder.mkdir(parents=True)
        CONFIG.save(folder / "sovits.json")
        if name in RANKS:
            state = merged(root / f"{name}.pth").state_dict()
        elif name == "full":
            state = read_sovits(root / "full.pth", CONFIG)
        else:
            state = sovits("tiny").state_dict()
        assert isinstance(state, dict)
        save_tensors(state, folder / "sovits.safetensors")
        stage = open_stage(folder)
        alone[name] = mel_of(ask(stage, ""))
        stage.close()
    stage = open_stage(base_folder)
    recorders = [(name, ask(stage, name)) for _ in range(2) for name in names]
    for name, recorder in recorders:
        assert_close(mel_of(recorder), alone[name], atol=5e-3, rtol=1e-3)
    for name in names[1:]:
        assert (alone[name] - alone["plain"]).abs().max() > 0.1
    assert sorted(stage._weight_cache.resident) == sorted(names[1:])
    again = [(name, ask(stage, name)) for name in names for _ in range(2)]
    for name, recorder in again:
        assert_close(mel_of(recorder), alone[name], atol=5e-3, rtol=1e-3)
    stats = stage._engine.stats()
    assert stats.rows / stats.steps > 1.5, "voices must share batches"
    stage.close()


def test_names_of_the_base_are_known() -> None:
    """The fixture's state is what the name table makes of upstream's keys."""
    named = {rename(key) for key in case_weights("s2", "tiny")} - {None}
    plain = {n for n in named if n and not n.endswith(("_g", "_v"))}
    assert plain <= set(sovits("tiny").state_dict())
