"""Upstream's arrays on the device, in float32 without TF32: every output against its tolerance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from golden import Case, golden_dir, has_case, load_case
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gsv import audio
from gsv.constants import STYLE_BINS
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.flow.planner import Reference, sentence_requests
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.engine.vocoder_windows import vocode
from gsv.models.gpt import SemanticGPT

Check = dict[str, Any]
CONTEXT = 512  # positions of the golden sentences, at most


def run(setup: Setup, section: Section, report: Report) -> None:
    """Every case that the folder has, in every size of the run."""
    section.put("folder", golden_dir().name)
    for size in setup.pick(("tiny", "full"), ("tiny",)):
        if not networks.has_weights(setup, size) or not has_case(f"{size}_cfm"):
            section.note("skipped", size, f"no {size} cases in GSV_GOLDEN, or no weights of them")
            continue
        for name, check in CASES.items():
            if not has_case(f"{size}_{name}"):
                section.note("skipped", f"{size}_{name}", "no such case in GSV_GOLDEN")
                continue
            section.attempt(f"{size}_{name}", functools.partial(_run, check, setup, size, name))
    section.put("summary", summary(section.results))


def _run(check: Callable[..., Check], setup: Setup, size: str, name: str) -> Check:
    with torch.no_grad():
        found = check(setup, size, load_case(f"{size}_{name}"))
    tidy()
    return found


def summary(results: dict[str, Any]) -> Check:
    """How many outputs there were, and those that were off."""
    outputs = {
        f"{case}:{name}": one
        for case, found in results.items()
        if isinstance(found, dict) and case not in ("summary", "folder")
        for name, one in found.items()
    }
    off = sorted(name for name, one in outputs.items() if not one["ok"])
    shares = [one["share"] for one in outputs.values() if "share" in one]
    return {"outputs": len(outputs), "off": off, "largest_share": max(shares, default=0.0)}


def compared(case: Case, output: str, actual: Tensor | NDArray[Any]) -> Check:
    """Largest difference as a share of what is allowed; integers must be equal."""
    got = actual.detach().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
    expected = case.outputs[output]
    if got.shape != expected.shape:
        return {"ok": False, "shape": list(got.shape), "expected_shape": list(expected.shape)}
    if np.issubdtype(expected.dtype, np.integer):
        return {"ok": bool((got == expected).all()), "differing": int((got != expected).sum())}
    off = float(np.abs(got.astype(np.float64) - expected).max())
    allowed = case.tolerance(output)
    return {"ok": off <= allowed, "off": off, "allowed": allowed, "share": off / allowed}


@dataclasses.dataclass
class _Inputs:
    """A case's inputs on the device."""

    case: Case
    device: str

    def __getitem__(self, name: str) -> Tensor:
        return self.case.tensor(name).to(self.device)


def _tokens(setup: Setup, size: str, case: Case) -> Check:
    quantizer = networks.sovits(setup, size).quantizer
    hubert = _Inputs(case, setup.device)["hubert"]
    return {
        "ssl_proj": compared(case, "ssl_proj", quantizer.projection(hubert)),
        "codes": compared(case, "codes", quantizer.extract_tokens(hubert)[None]),
    }


def _condition(setup: Setup, size: str, case: Case) -> Check:
    model, given = networks.sovits(setup, size), _Inputs(case, setup.device)
    timbre = model.style(given["refer"][:, :STYLE_BINS])
    found = {"ge": compared(case, "ge", timbre)}
    for output in (name for name in case.outputs if name.startswith("fea_speed_")):
        speed = float(output.removeprefix("fea_speed_").replace("p", "."))
        made, _ = model.condition(given["codes"][0], None, given["phones"], None, timbre, speed)
        found[output] = compared(case, output, made)
    return found


def _estimates(setup: Setup, size: str, case: Case) -> Check:
    flow, given = networks.sovits(setup, size).flow, _Inputs(case, setup.device)
    estimator = flow.estimator
    condition, prompt, noisy = given["mu"].mT, given["prompt"], given["x0"].mT
    rows = estimator.modulate(given["t"], given["d"])
    lengths = torch.tensor([noisy.shape[1]] * len(noisy), device=setup.device)
    embedded = flow.embed(condition, prompt)
    masked = estimator(noisy, flow.embed(condition, prompt, lengths), rows, lengths)
    found = {
        "t_embed": compared(case, "t_embed", estimator.time(given["t"])),
        "dt": compared(case, "dt", estimator.step_size(given["d"])),
        "text_embed": compared(case, "text_embed", estimator.embed_condition(given["mu"])),
        "v_full": compared(case, "v_full", estimator(noisy, embedded, rows)),
        "v_full_masked": compared(case, "v_full", masked),
    }
    untold = flow.embed(torch.zeros_like(condition), torch.zeros_like(prompt))
    return found | {"v_dropped": compared(case, "v_dropped", estimator(noisy, untold, rows))}


def _solutions(setup: Setup, size: str, case: Case) -> Check:
    prompt = case.tensor("prompt")[0]
    start = prompt.shape[1]
    engine = FlowEngine(networks.sovits(setup, size).flow)
    engine.start()
    found = {}
    try:
        engine.warm_up()
        for output, steps, temperature in (
            ("x_n4_cfg0", 4, 1.0),
            ("x_n8_cfg0", 8, 1.0),
            ("x_n4_temp0p7", 4, 0.7),
        ):
            job = FlowRequest(
                condition=case.tensor("mu")[0].mT,
                prompt=prompt,
                steps=steps,
                temperature=temperature,
                noise=case.tensor("noise")[0, :, start:],
            )
            made = functional.pad(engine.run(job), (start, 0))[None]
            found[output] = compared(case, output, made)
    finally:
        engine.stop()
    return found


def _spectrum(setup: Setup, size: str, case: Case) -> Check:
    wave = torch.from_numpy(case.inputs["wav_i16"].astype(np.float32) / 32768).mean(0)
    wave = wave.to(setup.device)
    spectrum, mel = audio.spectrum(wave[None]), audio.log_mel(wave[None])
    columns, frames = case.outputs["spec_slice"].shape[-1], case.outputs["mel"].shape[-1]
    return {
        "spec_slice": compared(case, "spec_slice", spectrum[..., :columns]),
        "mel": compared(case, "mel", mel[..., :frames]),
        "mel_norm": compared(case, "mel_norm", audio.normalize_mel(mel)[..., :frames]),
    }


def _wave(setup: Setup, size: str, case: Case) -> Check:
    model = networks.vocoder(setup, size)
    return {"wav": compared(case, "wav", model(case.tensor("mel").to(setup.device)))}


def _sequential(setup: Setup, size: str, case: Case) -> Check:
    """Tokens to the wave, chunk after chunk."""
    model, given = networks.sovits(setup, size), _Inputs(case, setup.device)
    wave = torch.from_numpy(case.inputs["wav_i16"].astype(np.float32) / 32768).mean(0)
    wave = wave.to(setup.device)
    timbre = model.style(audio.spectrum(wave)[None, :STYLE_BINS])
    prompt, _ = model.condition(
        given["prompt_semantic"][None], None, given["prompt_phones"][None], None, timbre
    )
    condition, _ = model.condition(
        given["target_semantic"][0], None, given["target_phones"], None, timbre
    )
    frames = case.meta["T_min"]
    mel = audio.normalize_mel(audio.log_mel(wave))
    reference = Reference.trimmed(prompt[0], mel, limit=frames)
    window = frames + case.meta["chunk_frames"][0]
    plan = sentence_requests(reference, condition[0], 4, seed=0, sentence=0, window=window)
    engine = FlowEngine(model.flow)
    engine.start()
    made = torch.zeros(0)
    try:
        job = next(plan)
        for index in range(len(case.meta["chunk_frames"])):
            noise = case.tensor(f"noise{index}")[0, :, job.prompt_frames :]
            job = plan.send(engine.run(dataclasses.replace(job, noise=noise)).to(setup.device))
    except StopIteration as finished:
        made = audio.denormalize_mel(finished.value)
    finally:
        engine.stop()
    voice = networks.vocoder(setup, size)
    (sound,) = vocode(voice, [made.to(setup.device)], limit=200)
    return {
        "mel": compared(case, "mel", made[None]),
        "audio_every5th": compared(case, "audio_every5th", sound[::5]),
    }


def generated(
    model: SemanticGPT, requests: list[SequenceRequest], setup: Setup, dtype: torch.dtype
) -> list[list[int]]:
    """Tokens of all requests, submitted together."""
    from gpu_steps.sentences import generate

    engine = Engine(model, setup.device, dtype, slots=max(2, len(requests)), max_length=CONTEXT)
    engine.warm_up()
    engine.start()
    try:
        return [answer.tokens for answer in generate(engine, requests)]
    finally:
        engine.stop()


def expected_tokens(case: Case, output: str, prompt: NDArray[Any]) -> list[int]:
    """What upstream generated: its arrays begin with the prompt's tokens."""
    tokens: list[int] = case.outputs[output][len(prompt) :].tolist()
    return tokens


def _same(made: list[int], expected: list[int]) -> Check:
    equal = 0
    while equal < min(len(made), len(expected)) and made[equal] == expected[equal]:
        equal += 1
    return {"ok": made == expected, "equal": equal, "tokens": len(expected)}


def _greedy(setup: Setup, size: str, case: Case) -> Check:
    from gpt_models import GREEDY, case_request

    prompt = case.inputs["prompt_semantic"]
    found: Check = {}
    for row in "ab":
        model = networks.gpt(setup, size, endless=False)
        request = case_request(case, row, **GREEDY, max_tokens=61)
        (made,) = generated(model, [request], setup, torch.float32)
        found[f"alone_{row}"] = _same(made, expected_tokens(case, f"naive60_y_{row}", prompt))
    requests = [case_request(case, row, **GREEDY, max_tokens=60) for row in "ab"]
    model = networks.gpt(setup, size, endless=False)
    for row, made in zip("ab", generated(model, requests, setup, torch.float32), strict=True):
        found[f"together_{row}"] = _same(made, expected_tokens(case, f"batch60_y_{row}", prompt))
    model = networks.gpt(setup, size, endless=False).to(setup.device)
    for row in "ab":
        logits = first_logits(model, case_request(case, row, **GREEDY), setup.device)
        found[f"logits_{row}"] = compared(case, f"logits_{row}", logits)
    return found


def first_logits(model: SemanticGPT, request: SequenceRequest, device: str) -> Tensor:
    """Logits [V] of a request's first token, without any engine."""
    config = model.config
    embedded = model.embed_prompt(
        torch.from_numpy(request.phonemes.astype(np.int64)).to(device),
        torch.from_numpy(request.bert).to(device),
        torch.from_numpy(request.prompt_tokens.astype(np.int64)).to(device),
    )[None]
    length = embedded.shape[1]
    shape = (1, length, config.heads, config.hidden_dim // config.heads)
    cache = [
        tuple(torch.zeros(shape, dtype=model.precision, device=device) for _ in range(2))
        for _ in range(config.layers)
    ]
    lengths = [torch.tensor([n], device=device) for n in (len(request.phonemes), length)]
    return model.prefill(embedded, *lengths, cache)[0]


def _endings(setup: Setup, size: str, case: Case) -> Check:
    from gpt_models import GREEDY, case_request, with_eos_bias

    greedy = load_case(f"{size}_t2s_greedy")
    prompt, found = greedy.inputs["prompt_semantic"], {}
    model = with_eos_bias(networks.gpt(setup, size, endless=False), float(case.inputs["bias_big"]))
    requests = [case_request(greedy, row, **GREEDY) for row in "ab"]
    requests = [_limited(request, 200) for request in requests]
    for row, made in zip("ab", generated(model, requests, setup, torch.float32), strict=True):
        found[f"bias_{row}"] = _same(made, expected_tokens(case, f"bias_batch_y_{row}", prompt))
    if float(case.inputs["bias_diff"]) >= 0:
        model = with_eos_bias(
            networks.gpt(setup, size, endless=False), float(case.inputs["bias_diff"])
        )
        requests = [case_request(greedy, row, **GREEDY, max_tokens=81) for row in "ab"]
        for row, made in zip("ab", generated(model, requests, setup, torch.float32), strict=True):
            expected = expected_tokens(case, f"diff_batch_y_{row}", prompt)
            found[f"different_ends_{row}"] = _same(made, expected)
    return found


def _limited(request: SequenceRequest, tokens: int) -> SequenceRequest:
    params = dataclasses.replace(request.params, max_tokens=tokens)
    return dataclasses.replace(request, params=params)


CASES: dict[str, Callable[..., Check]] = {
    "t2s_greedy": _greedy,
    "t2s_eos": _endings,
    "extract_latent": _tokens,
    "decode_encp": _condition,
    "cfm_batch": _estimates,
    "cfm": _solutions,
    "spec": _spectrum,
    "vocoder": _wave,
    "acoustic_sequential": _sequential,
}
