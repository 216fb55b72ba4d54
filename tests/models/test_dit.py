"""The flow's estimator: upstream's arrays, and masks that hide padding altogether.

Upstream masks padding in attention only, so what it gives for the shorter row of its batch
(``v_masked``, ``x_batch_masked``) depends on what the padding holds. Ours gives what the row gives
alone, and is compared with upstream's run of the row alone (``x_single_cut``).
"""

from __future__ import annotations

import pytest
import torch
from acoustic_models import sovits
from golden import Case, load_case, sizes
from torch import Tensor
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("no_grad")


def modulation(case: Case, size: str) -> Tensor:
    return sovits(size).flow.estimator.modulate(case.tensor("t"), case.tensor("d"))


@pytest.mark.parametrize("size", sizes("cfm_batch"))
def test_embeddings(size: str) -> None:
    case = load_case(f"{size}_cfm_batch")
    estimator = sovits(size).flow.estimator
    case.check("t_embed", estimator.time(case.tensor("t")))
    case.check("dt", estimator.step_size(case.tensor("d")))
    case.check("text_embed", estimator.embed_condition(case.tensor("mu")))
    untold = estimator.embed_condition(torch.zeros_like(case.tensor("mu")))
    case.check("text_embed_dropped", untold)
    rotation = estimator.rotation(case.inputs["mu"].shape[1])
    angles = torch.from_numpy(case.outputs["rope_freqs"])[0, :, ::2]
    assert_close(rotation.real, angles.cos(), atol=1e-5, rtol=0)
    assert_close(rotation.imag, angles.sin(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", sizes("cfm_batch"))
def test_velocity(size: str) -> None:
    case = load_case(f"{size}_cfm_batch")
    flow = sovits(size).flow
    condition, prompt, noisy = case.tensor("mu").mT, case.tensor("prompt"), case.tensor("x0").mT
    rows = modulation(case, size)
    case.check("v_full", flow.estimator(noisy, flow.embed(condition, prompt), rows))
    untold = flow.embed(torch.zeros_like(condition), torch.zeros_like(prompt))
    case.check("v_dropped", flow.estimator(noisy, untold, rows))
    lengths = torch.tensor([noisy.shape[1]] * 2)
    masked = flow.estimator(noisy, flow.embed(condition, prompt, lengths), rows, lengths)
    case.check("v_full", masked)


@pytest.mark.parametrize("size", sizes("cfm_batch"))
def test_padding_is_not_seen(size: str) -> None:
    case = load_case(f"{size}_cfm_batch")
    flow = sovits(size).flow
    condition, prompt, noisy = case.tensor("mu").mT, case.tensor("prompt"), case.tensor("x0").mT
    full, short = noisy.shape[1], noisy.shape[1] - 25
    lengths, rows = torch.tensor([full, short]), modulation(case, size)
    together = flow.estimator(noisy, flow.embed(condition, prompt, lengths), rows, lengths)
    alone = flow.estimator(
        noisy[1:, :short], flow.embed(condition[1:, :, :short], prompt[1:]), rows[1:]
    )
    assert_close(together[1:, :short], alone, atol=case.tolerance("v_full"), rtol=0)
    case_row = torch.from_numpy(case.outputs["v_full"])[0]
    assert_close(together[0], case_row, atol=case.tolerance("v_full"), rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_near(dtype: torch.dtype) -> None:
    model = sovits("tiny")
    generator = torch.Generator().manual_seed(0)
    channels = model.config.condition_channels
    condition = torch.randn(1, channels, 60, generator=generator)
    prompt = torch.randn(1, 100, 20, generator=generator)
    noisy = torch.randn(1, 60, 100, generator=generator)
    time = torch.tensor([0.3]), torch.tensor([0.25])

    def velocity() -> Tensor:
        flow = model.flow
        return flow.estimator(noisy, flow.embed(condition, prompt), flow.estimator.modulate(*time))

    exact = velocity()
    try:
        model.set_precision(dtype)
        rounded = velocity()
    finally:
        sovits.cache_clear()  # the shared model has been changed
    assert rounded.dtype == torch.float32
    error = (rounded - exact).square().mean() / exact.square().mean()
    assert 0 < error.sqrt() < 0.03
