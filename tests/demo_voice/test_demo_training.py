"""Training goes on as if it had not been stopped, on toys of every step."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adversary
import click
import codes
import gpt
import hubert
import numpy as np
import places
import pytest
import sovits
import torch
import vocoder
from loop import Trainer, mean_weights, step_if_finite
from torch import Tensor, nn

from gsv.constants import EOS

Losses = Callable[[], dict[str, Tensor]]


def tiny(steps: int, beside: dict[str, Any] | None = None) -> tuple[Trainer[nn.Linear], Losses]:
    """A trainer whose losses draw from all generators."""
    torch.manual_seed(5)
    trainer = Trainer("tiny", nn.Linear(3, 2), 1e-2, 0.0, steps, seed=7, beside=beside)
    module = trainer._module

    def losses() -> dict[str, Tensor]:
        drawn = torch.from_numpy(trainer.random.normal(size=(4, 3)).astype(np.float32))
        return {"loss": (module(drawn + torch.randn(4, 3))).square().mean()}

    return trainer, losses


def train_gpt(steps: int) -> tuple[Trainer[Any], Losses]:
    torch.manual_seed(1)
    module = gpt.build()
    trainer = Trainer("gpt", module, 1e-3, 0.0, steps, seed=2)
    source = gpt.Source(trainer.random, 300)
    return trainer, lambda: gpt.losses(module, source.batch(0.5), source, 0.1)


def train_sovits(steps: int) -> tuple[Trainer[Any], Losses]:
    torch.manual_seed(1)
    module = sovits.Learner()
    trainer = Trainer("sovits", module, 1e-3, 0.0, steps, seed=2)
    source = sovits.Source(trainer.random, trainer.device, 300)
    return trainer, lambda: sovits.losses(module, source.batch())


def train_hubert(steps: int) -> tuple[Trainer[Any], Losses]:
    torch.manual_seed(1)
    module = hubert.Ear().train()
    trainer = Trainer("hubert", module, 1e-3, 0.0, steps, seed=2)
    said, book = codes.Tokenized.load("corpus"), codes.Codebook.load()
    source = hubert.Source(codes.read("corpus"), said, book, trainer.random, trainer.device, 2)
    return trainer, lambda: hubert.losses(module, *source.batch())


def train_vocoder(steps: int) -> tuple[Trainer[Any], Losses]:
    torch.manual_seed(1)
    module, against = vocoder.build(), adversary.Adversary("cpu")
    trainer = Trainer("vocoder", module, 1e-3, 0.0, steps, seed=2, beside={"adversary": against})
    spectral = vocoder.SpectralLoss()
    crops = vocoder.Crops(codes.read("corpus"), trainer.random, trainer.device)

    def losses() -> dict[str, Tensor]:
        mel, wave = crops.batch(1)
        made = module(mel)[:, 0, 480:-480]
        wanted = wave[:, 480:-480]
        against.learn(made.detach(), wanted)
        return spectral(made, wanted) | against.losses(made, wanted)

    return trainer, losses


@pytest.mark.parametrize("make", [train_gpt, train_sovits, train_hubert, train_vocoder])
def test_a_stopped_run_ends_as_an_unbroken_one(
    make: Callable[[int], tuple[Trainer[Any], Losses]], run: Path
) -> None:
    def ended(*breaks: int) -> dict[str, Any]:
        for broken in (*breaks, None):
            trainer, losses = make(3)
            over = trainer.run(losses, stop_after=broken)
            assert over is (broken is None)
        state: dict[str, Any] = torch.load(trainer.path, weights_only=True)
        trainer.path.unlink()
        return state

    whole, broken = ended(), ended(1, 1)
    assert whole["steps"] == broken["steps"] == 3
    assert whole["random"] == broken["random"]
    for part in ("module", "mean"):
        for name, value in whole[part].items():
            assert torch.equal(value, broken[part][name]), f"{part} {name}"
    if whole["beside"]:
        one, other = (state["beside"]["adversary"]["module"] for state in (whole, broken))
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestLoop:
    @pytest.fixture(autouse=True)
    def _run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(places, "RUN", tmp_path)

    def test_losses_fall_and_progress_is_told(self, tmp_path: Path) -> None:
        trainer, losses = tiny(200)
        assert trainer.run(losses)
        told = json.loads((tmp_path / "tiny.json").read_text())
        assert told["step"] == 200
        assert told["share"] == 1.0
        rows = (tmp_path / "tiny.csv").read_text().splitlines()
        assert rows[0] == "step,loss"
        assert float(rows[-1].split(",")[1]) < float(rows[1].split(",")[1])

    def test_a_signal_stops_it_after_a_step_and_saves(self) -> None:
        trainer, losses = tiny(100)

        def until_told() -> dict[str, Tensor]:
            if trainer.steps == 4:
                signal.raise_signal(signal.SIGTERM)
            return losses()

        before = signal.getsignal(signal.SIGTERM)
        assert not trainer.run(until_told)
        assert signal.getsignal(signal.SIGTERM) is before
        assert torch.load(trainer.path, weights_only=True)["steps"] == 5

    def test_finish_says_that_it_was_stopped(self) -> None:
        trainer, losses = tiny(100)
        trainer.stop()
        with pytest.raises(SystemExit, match="call it again"):
            trainer.finish(losses)

    def test_minutes_count_over_all_runs(self) -> None:
        trainer = Trainer("tiny", nn.Linear(1, 1), 1e-2, minutes=10.0)
        trainer._spent = 300.0
        trainer.save()
        again = Trainer("tiny", nn.Linear(1, 1), 1e-2, minutes=10.0)
        assert again.progress == pytest.approx(0.5, abs=0.01)

    def test_snapshots_are_taken_at_equal_distances_across_runs(self, tmp_path: Path) -> None:
        module = nn.Linear(3, 2)

        def trainer() -> Trainer[nn.Linear]:
            return Trainer("tiny", module, 1e-2, 0.0, 10, snapshots=5)

        def losses() -> dict[str, Tensor]:
            return {"loss": module.weight.square().sum()}

        def taken() -> list[str]:
            return sorted(path.name for path in tmp_path.glob("tiny_*"))

        assert not trainer().run(losses, stop_after=5)
        # The last one is of the moment when it was stopped.
        assert taken() == ["tiny_020.pt", "tiny_040.pt", "tiny_050.pt"]
        assert trainer().run(losses)
        later = ["tiny_060.pt", "tiny_080.pt", "tiny_100.pt"]
        assert taken() == ["tiny_020.pt", "tiny_040.pt", "tiny_050.pt", *later]

    def test_a_step_with_gradients_that_are_not_finite_is_left_out(self) -> None:
        module = nn.Linear(1, 1)
        before = module.weight.detach().clone()
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for value in module.parameters():
            value.grad = torch.ones_like(value)
        step_if_finite(optimizer, torch.tensor(float("nan")))
        assert torch.equal(module.weight, before)
        step_if_finite(optimizer, torch.tensor(1.0))
        assert not torch.equal(module.weight, before)

    def test_the_mean_follows_the_weights(self) -> None:
        trainer, losses = tiny(30)
        trainer.run(losses)
        mean = mean_weights("tiny", nn.Linear(3, 2))
        moved = trainer._module.weight.detach() - mean.weight.detach()
        assert 0 < float(moved.abs().max()) < 0.1


class TestGpt:
    def test_a_piece_is_cut_as_the_product_cuts(self) -> None:
        whole = gpt.Spoken(
            np.array([5, 6, 7, 8, 4, 9, 10, 11, 12, 3]), np.arange(40), np.array([1, 1]),
            np.repeat(np.arange(10), 4), 4 * np.arange(1, 11),
        )  # fmt: skip
        first, second = gpt.cut(whole, 0, 5), gpt.cut(whole, 5, 10)
        assert first.phonemes.tolist() == [5, 6, 7, 8, 4]
        assert first.tokens.tolist() == list(range(20))
        assert second.phonemes.tolist() == [9, 10, 11, 12, 3]
        # A tenth of a second of silence is left before it, as before a sentence.
        assert second.tokens.tolist() == list(range(18, 40))
        assert second.places.tolist() == [0, 0, *np.repeat(np.arange(5), 4).tolist()]

    def test_pieces_end_in_marks(self) -> None:
        from gsv.text.symbols import symbol_ids

        ids = np.array(symbol_ids([".", "N", "OW1", "W", "AY1", ",", "D", "UW1", "IH0", "T", "!"]))
        none = np.zeros(0, int)
        assert gpt.pieces(gpt.Spoken(ids, none, none, none, none)) == [(0, 6), (6, 11)]

    def test_rows_are_told_and_judged_as_laid_out(self, run: Path) -> None:
        source = gpt.Source(np.random.default_rng(0), 600)
        for _ in range(20):
            for row in source.batch(0.7):
                assert len(row.tokens) == len(row.places) == len(row.judged)
                assert row.places.max() < len(row.phonemes)
                assert row.judged[-1]
                assert row.tokens.max() < EOS

    def test_corruption_spares_the_end(self, run: Path) -> None:
        source = gpt.Source(np.random.default_rng(0), 600)
        tokens = torch.arange(1000).repeat(4, 1)
        tokens[:, -50:] = EOS
        told = source.corrupt(tokens)
        changed = (told != tokens).float()
        assert changed[:, -50:].sum() == 0
        assert 0.04 < changed[:, :-50].mean() < 0.12

    def test_it_goes_on_from_an_official_file(self, tmp_path: Path) -> None:
        from gsv.repository import demo_voice

        path = demo_voice() / "pretrained" / "s1v3.ckpt"
        made = gpt.going_on(path)
        stored = torch.load(path, weights_only=True)["weight"]["model.h.layers.0.norm1.weight"]
        torch.testing.assert_close(
            made.state_dict()["layers.0.attention_norm.weight"], stored.float()
        )


class TestAdversary:
    @pytest.mark.parametrize("size", ["light", "middle"])
    def test_it_learns_to_tell_noise_from_a_tone(self, size: str) -> None:
        torch.manual_seed(0)
        against = adversary.Adversary("cpu", size)
        times = torch.arange(9_600) / 48_000
        tone = torch.sin(2 * torch.pi * 200 * times)[None]
        first = against.learn(torch.randn(1, 9_600), tone)
        for _ in range(15):
            last = against.learn(torch.randn(1, 9_600), tone)
        assert last < 0.7 * first

    @pytest.mark.parametrize("size", ["light", "middle"])
    def test_its_losses_reach_the_vocoder_alone(self, size: str) -> None:
        against = adversary.Adversary("cpu", size)
        against._weight.fill_(1.0)
        made = torch.randn(1, 9_600, requires_grad=True)
        losses = against.losses(made, torch.randn(1, 9_600))
        torch.stack(list(losses.values())).sum().backward()
        assert made.grad is not None
        assert made.grad.abs().sum() > 0
        assert all(value.grad is None for value in against._module.parameters())

    def test_a_large_one_learns_alone_before_it_is_heard(self) -> None:
        against = adversary.Adversary("cpu", "middle")
        made, wanted = torch.randn(1, 9_600), torch.randn(1, 9_600)
        heard = []
        for _ in range(against.size.alone + against.size.rising + 1):
            against.begin_step(1.0)
            heard.append(float(against._weight))
        assert max(heard[: against.size.alone + 1]) == 0.0
        assert heard == sorted(heard)
        assert heard[-1] == 1.0
        full = against.losses(made, wanted)
        against._weight.fill_(0.25)
        part = against.losses(made, wanted)
        assert all(part[name] == pytest.approx(full[name] / 4) for name in full)

    def test_bfloat16_judges_alike_with_channels_last(self) -> None:
        """What a GPU does, on a CPU."""
        torch.manual_seed(0)
        against = adversary.Adversary("cpu", "middle")
        wave = 0.1 * torch.randn(1, 9_600)
        plain = against._judge(wave)
        against._half = True
        half = against._judge(wave)
        for one, other in zip(plain, half, strict=True):
            for values, rounded in zip(one, other, strict=True):
                assert rounded.dtype == torch.bfloat16
                torch.testing.assert_close(rounded.float(), values, atol=0.03, rtol=0.05)
            for values in other[:-1]:
                assert values.is_contiguous(memory_format=torch.channels_last)
        losses = against.losses(wave, 0.1 * torch.randn(1, 9_600))
        assert {value.dtype for value in losses.values()} == {torch.float32}

    def test_the_one_of_frames_sees_what_is_repeated_in_each(self) -> None:
        """Equal frames give equal rows, apart from the crop's edges."""
        discriminator = adversary.FrameDiscriminator((4, 4, 4, 4))
        judged = discriminator(torch.randn(1, 240).repeat(1, 20))[-1][0, 0, 5:-5]
        torch.testing.assert_close(judged, judged[:1].expand_as(judged), atol=1e-5, rtol=1e-4)

    def test_loudness_of_spectra_does_not_depend_on_the_window(self) -> None:
        noise = 0.08 * torch.randn(1, 48_000)
        views = adversary.SIZES["full"].views
        means = [
            float(adversary.PhaseDiscriminator(view, (1, 1, 1, 1)).inputs(noise)[:, 0].mean())
            for view in views
        ]
        assert max(means) - min(means) < 0.05
        heights = [
            adversary.PhaseDiscriminator(view, (1, 1, 1, 1)).inputs(noise).shape[2]
            for view in views
        ]
        assert heights == [view.window * view.top // 48_000 for view in views]

    def test_a_state_of_another_size_is_refused_with_what_to_do(self) -> None:
        state = adversary.Adversary("cpu", "middle").state_dict()
        with pytest.raises(click.ClickException, match="--adversary middle.*--init"):
            adversary.Adversary("cpu").load_state_dict(state)

    def test_a_state_from_before_there_were_sizes_is_a_light_one(self) -> None:
        against = adversary.Adversary("cpu")
        against.begin_step(1.0)
        state = against.state_dict()
        del state["size"], state["steps"]
        again = adversary.Adversary("cpu")
        again.load_state_dict(state)
        one, other = against._module.state_dict(), again._module.state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)
        with pytest.raises(click.ClickException, match="--adversary light"):
            adversary.Adversary("cpu", "middle").load_state_dict(state)


class TestVocoder:
    def test_what_lies_between_harmonics_counts(self) -> None:
        """Much less does what is above the low band."""
        times = torch.arange(9_600) / 48_000
        voice = torch.stack([torch.sin(2 * torch.pi * 200 * k * times) for k in range(1, 10)])
        voice = 0.03 * voice.sum(0)[None] + 0.003 * torch.randn(1, 9_600)
        between = voice + 0.01 * torch.sin(2 * torch.pi * 300 * times)
        above = voice + 0.01 * torch.sin(2 * torch.pi * 5_000 * times)
        loss = vocoder.SpectralLoss()
        assert loss(between, voice)["low"] > 3 * loss(above, voice)["low"]
        assert loss(voice, voice)["low"] == 0

    def test_crops_are_as_long_as_asked(self, run: Path) -> None:
        random, device = np.random.default_rng(0), torch.device("cpu")
        mel, wave = vocoder.Crops(codes.read("corpus"), random, device, frames=40).batch(2)
        assert mel.shape == (2, 100, 40)
        assert wave.shape == (2, 40 * 480)

    def test_the_command_trains_and_leaves_snapshots(self, run: Path) -> None:
        options = [
            "--steps", "4", "--batch", "1", "--frames", "20", "--adversary", "middle",
            "--gan-from", "0", "--snapshots", "2", "--rate", "1e-3",
        ]  # fmt: skip
        vocoder.main.main(options, standalone_mode=False)
        halves = [run / "vocoder_050.pt", run / "vocoder_100.pt"]
        assert sorted(run.glob("vocoder_*")) == halves
        state = torch.load(run / "vocoder.pt", weights_only=True)
        assert state["beside"]["adversary"]["size"] == "middle"
        assert state["beside"]["adversary"]["steps"] == 4
        assert state["optimizer"]["param_groups"][0]["betas"] == (0.8, 0.99)
        for file, steps in zip(halves, (2, 4), strict=True):
            stored = torch.load(file, weights_only=True)
            assert stored["steps"] == steps
            assert {v.dtype for v in stored["mean"].values()} == {torch.float16}
        # What judges and exports read of the state, a snapshot has too.
        halves[1].replace(run / "vocoder.pt")
        mean = mean_weights("vocoder", vocoder.build())
        torch.testing.assert_close(
            mean.input.weight, state["mean"]["input.weight"], atol=1e-3, rtol=1e-3
        )
        columns = (run / "vocoder.csv").read_text().splitlines()[0].split(",")
        assert {"low", "fool", "feature", "caught"} <= set(columns)


class TestGoingOn:
    """From files in the official formats, as the last steps of the shipped voice did."""

    def test_a_vocoder_makes_the_waves_that_the_product_makes(self) -> None:
        from gsv.checkpoints.convert import fold_weight_norm
        from gsv.checkpoints.names.vocoder import rename
        from gsv.models.vocoder import Vocoder
        from gsv.repository import demo_voice

        path = demo_voice() / "pretrained" / "gsv-v4-pretrained" / "vocoder.pth"
        file = torch.load(path, weights_only=True)
        served = Vocoder(vocoder.CONFIG)
        named = {str(rename(key)): value.float() for key, value in file.items()}
        served.load_state_dict(fold_weight_norm(named))
        mel = torch.randn(1, 100, 30) - 5
        with torch.no_grad():
            torch.testing.assert_close(
                vocoder.going_on(path)(mel), served(mel), atol=1e-5, rtol=1e-4
            )

    def test_sovits_has_all_of_the_file(self, run: Path) -> None:
        from gsv.repository import demo_voice

        path = demo_voice() / "pretrained" / "gsv-v4-pretrained" / "s2Gv4.pth"
        made = sovits.going_on(path)
        stored = torch.load(path, weights_only=True)["weight"]
        assert torch.equal(made.linear_mel.weight, stored["linear_mel.weight"].float())
        name = "cfm.estimator.transformer_blocks.0.attn.to_q.weight"
        assert torch.equal(
            made.sovits.flow.estimator.blocks[0].attention.query.weight, stored[name].float()
        )


def test_frames_that_are_given_are_not_judged(run: Path) -> None:
    """What a row has before its new frames is heard, as in a stream, but nothing is learned."""
    source = sovits.Source(np.random.default_rng(3), torch.device("cpu"), 300)
    batch = source.batch()
    assert batch.given.shape == (len(batch.tokens),)
    assert batch.given.max() < batch.mel.shape[-1]
    learner = sovits.Learner()
    learner.sovits.flow.estimator.forward = (  # type: ignore[method-assign]
        lambda noisy, *rest: torch.zeros_like(noisy)
    )
    last = batch.mel.shape[-1] - 1
    other = batch.mel.clone()
    other[..., :last] += 5
    flows = []
    for given in (0, last):
        for mel in (batch.mel, other):
            torch.manual_seed(1)
            one = dataclasses.replace(batch, mel=mel, given=torch.full_like(batch.given, given))
            flows.append(sovits.losses(learner, one)["flow"])
    assert flows[0] != flows[1]
    assert flows[2] == flows[3]
