"""Speed and rounding of single operations of the flow and the vocoder, in every way there is.

    python -m gsv.bench kernels --device cuda --dtype bfloat16

One line of JSON a way. Errors are against the same operation in float32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gsv.config import SoVITSConfig, VocoderConfig
from gsv.device import prepare
from gsv.engine.kernels.cuda.available import triton_serves
from gsv.engine.kernels.cuda.flow import can_run
from gsv.models import dit
from gsv.models.attention import attend, attention_mask
from gsv.models.flow import FlowMatching
from gsv.models.layers import RowConv1d, gelu_tanh, set_precision
from gsv.models.masking import length_mask
from gsv.models.vocoder import ActivatedConv1d
from gsv.precision import torch_dtype

SHAPES = ((16, 1024), (8, 576), (1, 576))
_CALLS = 10  # of a measurement
_REPEATS = 5
_WINDOW = 64
_PYTORCHS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True)
class Row:
    """One way of one operation at one size."""

    operation: str
    way: str
    rows: int
    frames: int
    microseconds: float | None = None  # of one call
    rate: float | None = None  # tera-operations or, where there are none, terabytes a second
    error: float | None = None  # norm of the difference against the norm of the float32 result
    failure: str = ""  # why there are no figures


@dataclass(frozen=True)
class Way:
    """A way to compute.

    Attributes:
        call: what is timed.
        made: the tensor that ``reference`` makes in float32, where ``call`` makes another one.
    """

    name: str
    call: Callable[[], Tensor]
    made: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Operation:
    """What is to be computed, in several ways."""

    name: str
    work: float  # operations or bytes
    reference: Callable[[], Tensor] | None
    ways: Sequence[Way]


def measure(
    shapes: Sequence[tuple[int, int]] = SHAPES,
    dtype: str = "bfloat16",
    device: str = "cuda",
    config: SoVITSConfig | None = None,
    vocoder: VocoderConfig | None = None,
) -> Iterator[Row]:
    """Rows as they are measured; a way that a device doesn't know has its failure.

    The vocoder's have windows of ``_WINDOW`` frames, in float16 on a GPU.
    """
    device = str(prepare(device))
    flow = _random_flow(config or SoVITSConfig(), torch_dtype(dtype, device), device)
    for rows, frames in shapes:
        for operation in _operations(flow, rows, frames):
            yield from _measured(operation, rows, frames, device)
    del flow
    half = torch.float16 if torch.device(device).type == "cuda" else torch_dtype(dtype, device)
    for rows in (1, 8):
        for operation in _vocoder_operations(vocoder or VocoderConfig(), rows, half, device):
            yield from _measured(operation, rows, _WINDOW, device)


@torch.inference_mode()
def _measured(operation: Operation, rows: int, frames: int, device: str) -> Iterator[Row]:
    wanted = None if operation.reference is None else operation.reference().double()
    for way in operation.ways:
        place = (operation.name, way.name, rows, frames)
        try:
            made = (way.made or way.call)()
            error = None
            if wanted is not None:
                error = float((made.double() - wanted).norm() / wanted.norm())
            seconds = seconds_of(way.call, device)
        except Exception as failure:  # other ways may work
            yield Row(*place, failure=f"{type(failure).__name__}: {failure}"[:300])
            continue
        yield Row(*place, 1e6 * seconds, operation.work / seconds / 1e12, error)


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Seconds of one call, without the time that a GPU takes to be told."""
    if torch.device(device).type != "cuda":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(_CALLS):
            call()
    best = float("inf")
    for _ in range(_REPEATS):
        begin_event, end_event = (_event() for _ in range(2))
        begin_event.record()
        graph.replay()
        end_event.record()
        end_event.synchronize()
        best = min(best, begin_event.elapsed_time(end_event) / 1000 / _CALLS)
    return best


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _random_flow(config: SoVITSConfig, dtype: torch.dtype, device: str) -> FlowMatching:
    torch.manual_seed(0)
    flow = FlowMatching(config).eval().requires_grad_(False)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    nn.init.uniform_(flow.estimator.inverse_frequencies)
    flow.to(device)
    set_precision(flow, dtype)
    return flow


@torch.inference_mode()
def _operations(flow: FlowMatching, rows: int, frames: int) -> Iterator[Operation]:
    estimator, device = flow.estimator, flow.device
    block = estimator.blocks[0]
    assert isinstance(block, dit.Block)
    own = triton_serves(device) and can_run(estimator)
    width, dtype = estimator.width, block.reduce.weight.dtype
    values = torch.randn(rows, frames, width, device=device)
    half = values.to(dtype)
    lengths = torch.full((rows,), frames, dtype=torch.int32, device=device)
    yield from _products(block, half)
    yield _attention(block.attention, half, None, own)
    yield _attention(block.attention, half, lengths - frames // 9, own)
    yield _rotation(estimator, half, own)
    yield _norm(values, half, own)
    yield _position(estimator, values, lengths, own)


def _products(block: dit.Block, half: Tensor) -> Iterator[Operation]:
    """The block's matrix products; packed layers (on a CPU) are left out."""
    attention = block.attention
    layers = (attention.query, attention.key, attention.value)
    if any(layer.weight.is_meta for layer in layers):
        return
    frames, width = half.shape[0] * half.shape[1], half.shape[2]
    joined = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    yield Operation(
        "query, key, value",
        2.0 * frames * width * len(joined),
        partial(functional.linear, half.float(), joined.float(), bias.float()),
        [
            Way("one product", partial(functional.linear, half, joined, bias)),
            Way(
                "three products",
                lambda: [functional.linear(half, each.weight, each.bias) for each in layers][0],
                lambda: torch.cat([functional.linear(half, x.weight, x.bias) for x in layers], -1),
            ),
        ],
    )
    expand, reduce = block.expand, block.reduce
    hidden = expand.out_features

    def apart() -> Tensor:
        return gelu_tanh(functional.linear(half, expand.weight, expand.bias))

    def exact() -> Tensor:
        wide = functional.linear(half.float(), expand.weight.float(), expand.bias.float())
        return gelu_tanh(wide)

    work = 2.0 * frames * width * hidden
    yield Operation(
        "expand and GELU", work, exact, [Way("as served", lambda: expand(half)), Way("two", apart)]
    )
    wide = torch.randn(*half.shape[:2], hidden, device=half.device).to(half.dtype)
    yield Operation("reduce", work, None, [Way("product", lambda: reduce(wide))])
    output = attention.output
    yield Operation(
        "output", 2.0 * frames * width * width, None, [Way("product", lambda: output(half))]
    )


def _attention(layer: dit.Attention, half: Tensor, lengths: Tensor | None, own: bool) -> Operation:
    rows, frames, width = half.shape
    joined = torch.randn(rows, frames, 3 * width, device=half.device).to(half.dtype)
    heads = list(joined.view(rows, frames, 3, layer.heads, -1).unbind(2))
    query, key, value = heads
    known = [frames] * rows if lengths is None else lengths.tolist()
    inside = length_mask(torch.tensor(known, device=half.device), frames)
    assert inside is not None
    mask = None if lengths is None else attention_mask(inside, half.dtype)

    def kept(made: Tensor) -> Tensor:
        return made.masked_fill(~inside[..., None], 0)

    def reference() -> Tensor:
        # Row by row, for the scores of all would be large.
        made = query.new_zeros(rows, frames, width, dtype=torch.float32)
        for row, n in enumerate(known):
            own_query, own_key, own_value = (p[row : row + 1, :n].float() for p in heads)
            made[row, :n] = attend(own_query, own_key, own_value, None)[0]
        return made

    def pytorchs(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return attend(query, key, value, lengths, mask)

    ways = [Way("as PyTorch chooses", lambda: attend(query, key, value, lengths, mask))]
    if half.device.type == "cuda":
        ways += [Way(name, partial(pytorchs, backend)) for name, backend in _PYTORCHS.items()]
    if own:
        from gsv.engine.kernels.cuda import flow_attention

        ways += [
            Way(
                f"kernel {t.queries}x{t.keys}, {t.warps} warps, {t.stages} stages",
                partial(flow_attention.attend, query, key, value, lengths, t),
            )
            for t in flow_attention.CANDIDATES
        ]
    return Operation(
        "attention" if lengths is None else "attention, padded",
        4.0 * width * sum(n * n for n in known),
        reference,
        # What lies beyond a length means nothing.
        [Way(way.name, way.call, partial(_then, way.call, kept)) for way in ways],
    )


def _then(call: Callable[[], Tensor], after: Callable[[Tensor], Tensor]) -> Tensor:
    return after(call())


def _rotation(estimator: dit.DiT, half: Tensor, own: bool) -> Operation:
    rows, frames, width = half.shape
    rotation = estimator.rotation(frames)
    heads = width // (2 * rotation.shape[-1])
    joined = torch.randn(rows, frames, 3 * width, device=half.device).to(half.dtype)
    query, key, _ = joined.view(rows, frames, 3, heads, -1).unbind(2)

    def turned(function: Callable[[Tensor, Tensor, Tensor], None]) -> Tensor:
        function(query, key, rotation)
        return query

    ways = [Way("plain", partial(turned, dit.rotate_first_heads))]
    if own:
        from gsv.engine.kernels.cuda import flow_attention

        ways.append(Way("kernel", partial(turned, flow_attention.rotate_first_heads)))
    moved = 4.0 * rows * frames * width // heads * half.element_size()
    return Operation("rotation", moved, None, ways)


def _norm(values: Tensor, half: Tensor, own: bool) -> Operation:
    rows, _, width = values.shape
    parts = torch.randn(rows, 3 * width, device=values.device)
    parts[:, :width] = 0  # kernels add in place, and each way is to find the same values
    gate, scale, shift = parts.chunk(3, dim=-1)

    def normed(function: dit.AddAndNorm, dtype: torch.dtype, hidden: Tensor) -> Tensor:
        return function(values, hidden, gate, scale, shift, dtype)[1]

    ways = [Way("plain", partial(normed, dit.add_and_norm, half.dtype, half))]
    if own:
        from gsv.engine.kernels.cuda import flow_norm

        ways.append(Way("kernel", partial(normed, flow_norm.add_and_norm, half.dtype, half)))
    moved = values.numel() * (2.0 * values.element_size() + 2 * half.element_size())
    reference = partial(normed, dit.add_and_norm, torch.float32, half.float())
    return Operation("sum and norm", moved, reference, ways)


def _position(estimator: dit.DiT, values: Tensor, lengths: Tensor, own: bool) -> Operation:
    layer = estimator.position
    first, second = layer.first, layer.second
    mask = length_mask(lengths, values.shape[1])

    def plain() -> Tensor:
        made: Tensor = layer(values, lengths, mask)
        return made

    def exact() -> Tensor:
        hidden: Tensor = values.mT
        for conv in (first, second):
            if conv.weight.is_meta:
                return plain() - values
            assert conv.bias is not None
            hidden = functional.mish(
                functional.conv1d(
                    hidden,
                    conv.weight.float(),
                    conv.bias.float(),
                    padding=int(conv.padding[0]),
                    groups=conv.groups,
                )
            )
        return hidden.mT

    def rows_last() -> Tensor:
        hidden = values.mT.to(first.weight.dtype)
        for conv in (first, second):
            hidden = functional.mish(nn.Conv1d.forward(conv, hidden))
        return hidden.mT

    ways = [Way("plain", plain, lambda: plain() - values)]
    if values.device.type == "cuda":
        ways.append(Way("plain, time last", rows_last))
    if own:
        from gsv.engine.kernels.cuda.flow_convolution import PositionKernel

        kernel = PositionKernel(layer)
        target = values.clone()
        ways.append(
            Way(
                "kernel",
                lambda: kernel(target, lengths),
                lambda: kernel(values.clone(), lengths) - values,
            )
        )
    taps, inputs = first.kernel_size[0], first.in_channels // first.groups
    return Operation("position convolutions", 4.0 * values.numel() * taps * inputs, exact, ways)


def _vocoder_operations(
    config: VocoderConfig, rows: int, dtype: torch.dtype, device: str
) -> Iterator[Operation]:
    """Convolutions of each stage, with most taps."""
    channels, samples = config.initial_channels, _WINDOW
    taps = max(config.resblock_kernels)
    for rate in config.upsample_rates:
        channels, samples = channels // 2, samples * rate
        layer = ActivatedConv1d(channels, taps, 3).requires_grad_(False)
        nn.init.normal_(layer.weight, std=(channels * taps) ** -0.5)
        layer.to(device)
        exact = layer.weight.detach().clone(), layer.bias
        set_precision(layer, dtype)
        values, residual = torch.randn(2, rows, samples, channels, device=device)
        yield _vocoder_convolution(layer, exact, values, residual)


def _vocoder_convolution(
    layer: ActivatedConv1d, exact: tuple[Tensor, Tensor | None], values: Tensor, residual: Tensor
) -> Operation:
    channels, taps = layer.in_channels, layer.kernel_size[0]
    dtype = layer.weight.dtype

    def reference() -> Tensor:
        weight, bias = exact
        active = functional.leaky_relu(values, layer.slope).mT
        padding, dilation = int(layer.padding[0]), layer.dilation[0]
        bias = None if bias is None else bias.float()
        made = functional.conv1d(active, weight.float(), bias, 1, padding, dilation)
        return residual + made.mT

    def time_last() -> Tensor:
        active = functional.leaky_relu(values, layer.slope).to(dtype).mT.contiguous()
        return residual + nn.Conv1d.forward(layer, active).mT

    rows_layer = RowConv1d.forward
    ways = [Way("plain", lambda: layer(values, residual))]
    if values.device.type == "cuda":
        ways.append(Way("plain, time last", time_last))
        half = values.to(dtype)
        image = values.to(dtype).mT.contiguous()
        ways.append(Way("convolution alone", lambda: rows_layer(layer, half), time_last))
        ways.append(
            Way("convolution alone, time last", lambda: nn.Conv1d.forward(layer, image), time_last)
        )
    if triton_serves(values.device):
        from gsv.engine.kernels.cuda.vocoder_convolution import ConvolutionKernel

        kernel = ConvolutionKernel(layer)
        ways.append(Way("kernel", lambda: kernel(values, residual)))
        second, half = ConvolutionKernel(layer, activates_input=False), values.to(dtype)
        active = functional.leaky_relu(values, layer.slope).to(dtype)
        ways.append(
            Way(
                "kernel, activated before",
                lambda: second(half, residual),
                lambda: second(active, residual),
            )
        )
    work = 2.0 * values.numel() * channels * taps
    return Operation(f"vocoder convolution of {channels} channels", work, reference, ways)


def _shape(text: str) -> tuple[int, int]:
    rows, _, frames = text.partition("x")
    return int(rows), int(frames)


@click.command()
@click.option("--shape", "shapes", multiple=True, default=[f"{r}x{t}" for r, t in SHAPES])
@click.option("--dtype", default="bfloat16")
@click.option("--device", default="cuda")
def main(shapes: tuple[str, ...], dtype: str, device: str) -> None:
    """Measure the flow's operations one by one, with random weights of full size.

    A --shape is ROWSxFRAMES.
    """
    try:
        sizes = [_shape(shape) for shape in shapes]
    except ValueError as error:
        raise click.UsageError(f"--shape: got {shapes}; must be as 16x1024") from error
    for row in measure(sizes, dtype, device):
        click.echo(json.dumps({k: v for k, v in asdict(row).items() if v not in (None, "")}))
