"""The semantic GPT's decoding step on a GPU, five kernels a layer instead of fourteen.

A step of a few rows does next to no arithmetic: it reads the weights once, and its time is the
number of kernels. So each kernel does all that lies between two points where every output needs
every input: norm and projection, attention over a piece of the cache, merging the pieces with the
next projection.

Every row is computed by the same operations in the same order whatever the number of rows and
whatever their lengths: a row alone and the same row among thirty-two have equal bits.

With ``early`` a kernel is started while the one before it still runs (programmatic dependent
launch): it reads its weights, which nobody writes, and only then waits for what it depends on.
Every kernel waits for the end of the one before it, so the end of one is the end of all before.

Imports Triton's language, so import this module only where :func:`triton_serves` says yes.
Letters in shapes: B rows, E width, H heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from gsv.engine.gpt.cache import KVCache
from gsv.models.gpt import FEED_FORWARD, Block, SemanticGPT

ROW_BLOCK = 16  # rows of a matrix product: the least that tensor cores take
COLUMN_BLOCK = 16  # outputs of one program: many small programs read the weights at once
DEPTH_BLOCK = 256  # inputs read at a time where there are 4 E of them
PIECE = 256  # cached positions that one program attends to
_NORM_EPS = tl.constexpr(1e-5)
_LOWEST = tl.constexpr(-1e30)  # in the place of -inf, whose differences are NaN
_LOG2_E = 1.4426950408889634
_WIDTHS = (128, 256, 512, 1024)
_HEAD_WIDTHS = (16, 32, 64)


@triton.jit
def _normed(x, weight, bias, rows, width: tl.constexpr, row_block: tl.constexpr):
    """Layer norm of the program's rows, float32 [row_block, width]; zeros beyond ``rows``."""
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    column = tl.arange(0, width)
    inside = row[:, None] < rows
    values = tl.load(x + row[:, None] * width + column[None, :], mask=inside, other=0.0)
    centred = values - tl.sum(values, axis=1)[:, None] / width
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / width + _NORM_EPS)
    gain = tl.load(weight + column)[None, :]
    shift = tl.load(bias + column)[None, :]
    return centred * scale[:, None] * gain + shift


@triton.jit
def _matrix(weight, column, outputs, width: tl.constexpr):
    """The rows ``column`` of ``weight`` [outputs, width]."""
    place = weight + column[:, None] * width + tl.arange(0, width)[None, :]
    return tl.load(place, mask=column[:, None] < outputs, other=0.0)


@triton.jit
def _product(x, matrix):
    """``x`` [rows, width] times ``matrix`` [outputs, width], float32."""
    return tl.dot(x.to(matrix.dtype), tl.trans(matrix))


@triton.jit(do_not_specialize=["rows"])
def embed(
    tokens, positions, text_lengths, table, alpha, position_table, out, rows, width: tl.constexpr
):
    """Input vectors of the tokens drawn last, float32 [B, E]; one row a program."""
    row = tl.program_id(0)
    column = tl.arange(0, width)
    token = tl.load(tokens + row)
    step = tl.load(positions + row) - tl.load(text_lengths + row)
    embedded = tl.load(table + token * width + column)
    place = tl.load(position_table + step * width + column)
    tl.store(out + row * width + column, embedded + tl.load(alpha) * place)


@triton.jit(do_not_specialize=["rows"])
def project_inputs(
    x,
    norm_weight,
    norm_bias,
    normed_out,  # float32 [B, E]: the residual of the attention
    weight,  # [3 E, E]
    bias,
    positions,
    query_out,  # [B, E]
    keys,  # [slots, …, positions, E] of this layer
    values,
    rows,
    slot_stride,
    width: tl.constexpr,
    has_norm: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    early: tl.constexpr,
):
    """The norm before a layer, then query, key and value; the latter two into the cache."""
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    inside = row[:, None] < rows
    column = tl.arange(0, width)
    first = tl.program_id(0) * column_block
    output = first + tl.arange(0, column_block)
    matrix = _matrix(weight, output, 3 * width, width)
    if early:
        gdc_launch_dependents()
        gdc_wait()
    if has_norm:
        normed = _normed(x, norm_weight, norm_bias, rows, width, row_block)
    else:
        normed = tl.load(x + row[:, None] * width + column[None, :], mask=inside, other=0.0)
    if tl.program_id(0) == 0:
        tl.store(normed_out + row[:, None] * width + column[None, :], normed, mask=inside)
    made = _product(normed, matrix)
    made += tl.load(bias + output).to(tl.float32)[None, :]
    part = first // width
    channel = output - part * width
    if part == 0:
        place = query_out + row[:, None] * width + channel[None, :]
        tl.store(place, made.to(query_out.dtype.element_ty), mask=inside)
    else:
        position = tl.load(positions + row, mask=row < rows, other=0)
        cached = row.to(tl.int64) * slot_stride + position * width
        half = made.to(keys.dtype.element_ty)
        if part == 1:
            tl.store(keys + cached[:, None] + channel[None, :], half, mask=inside)
        else:
            tl.store(values + cached[:, None] + channel[None, :], half, mask=inside)


@triton.jit
def attend(
    query,  # [B, E]
    keys,
    values,
    positions,
    mixed_out,  # float32 [slots, pieces, E], not yet divided by the sum of weights
    highest_out,  # float32 [slots, pieces, H]
    total_out,  # float32 [slots, pieces, H]
    slot_stride,
    scale,  # of the scores, for powers of 2
    heads: tl.constexpr,
    head_width: tl.constexpr,
    pieces: tl.constexpr,
    piece: tl.constexpr,
    early: tl.constexpr,
):
    """One head of one row over every n-th piece of its cached positions, n programs for all."""
    if early:
        gdc_launch_dependents()
        gdc_wait()
    head, row = tl.program_id(0), tl.program_id(1)
    length = tl.load(positions + row) + 1
    for index in range(tl.program_id(2), tl.cdiv(length, piece), tl.num_programs(2)):
        width: tl.constexpr = heads * head_width
        channel = head * head_width + tl.arange(0, head_width)
        position = index * piece + tl.arange(0, piece)
        inside = position < length
        place = row.to(tl.int64) * slot_stride + position[:, None] * width + channel[None, :]
        asked = tl.load(query + row * width + channel).to(tl.float32)
        key = tl.load(keys + place, mask=inside[:, None], other=0.0).to(tl.float32)
        value = tl.load(values + place, mask=inside[:, None], other=0.0).to(tl.float32)
        scores = tl.sum(key * asked[None, :], axis=1) * scale
        scores = tl.where(inside, scores, _LOWEST)
        highest = tl.max(scores, axis=0)
        weights = tl.where(inside, tl.exp2(scores - highest), 0.0)
        out = row * pieces + index
        tl.store(mixed_out + out * width + channel, tl.sum(weights[:, None] * value, axis=0))
        tl.store(highest_out + out * heads + head, highest)
        tl.store(total_out + out * heads + head, tl.sum(weights, axis=0))


@triton.jit(do_not_specialize=["rows"])
def project_attended(
    mixed,
    highest,
    total,
    positions,
    residual,  # float32 [B, E]
    weight,  # [E, E]
    bias,
    out,  # float32 [B, E]
    rows,
    heads: tl.constexpr,
    head_width: tl.constexpr,
    pieces: tl.constexpr,
    piece: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    early: tl.constexpr,
):
    """Merge the pieces of each row, project, add the residual."""
    width: tl.constexpr = heads * head_width
    output = tl.program_id(0) * column_block + tl.arange(0, column_block)
    matrix = _matrix(weight, output, width, width)
    if early:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    inside = row < rows
    head = tl.arange(0, heads)[None, :]
    channel = head[:, :, None] * head_width + tl.arange(0, head_width)[None, None, :]
    length = tl.load(positions + row, mask=inside, other=0) + 1
    peak = tl.full((row_block, heads), _LOWEST, tl.float32)
    weights = tl.zeros((row_block, heads), tl.float32)
    attended = tl.zeros((row_block, heads, head_width), tl.float32)
    for index in range(0, tl.cdiv(tl.max(length, axis=0), piece)):
        there = (inside & (index * piece < length))[:, None]
        place = (row * pieces + index)[:, None]
        next_peak = tl.load(highest + place * heads + head, mask=there, other=_LOWEST)
        next_total = tl.load(total + place * heads + head, mask=there, other=0.0)
        next_mixed = tl.load(
            mixed + place[:, :, None] * width + channel, mask=there[:, :, None], other=0.0
        )
        higher = tl.maximum(peak, next_peak)
        kept, added = tl.exp2(peak - higher), tl.exp2(next_peak - higher)
        weights = weights * kept + next_total * added
        attended = attended * kept[:, :, None] + next_mixed * added[:, :, None]
        peak = higher
    attended = attended / tl.where(inside[:, None], weights, 1.0)[:, :, None]
    attended = tl.reshape(attended, (row_block, width))
    # Rounded as the plain version rounds what attention gives.
    made = _product(attended, matrix)
    made += tl.load(bias + output).to(tl.float32)[None, :]
    place = row[:, None] * width + output[None, :]
    made = made.to(weight.dtype.element_ty).to(tl.float32)
    made += tl.load(residual + place, mask=inside[:, None], other=0.0)
    tl.store(out + place, made, mask=inside[:, None])


@triton.jit(do_not_specialize=["rows"])
def expand(
    x,
    norm_weight,
    norm_bias,
    normed_out,  # float32 [B, E]: the residual of the feed-forward
    weight,  # [4 E, E]
    bias,
    out,  # [B, 4 E]
    rows,
    outputs: tl.constexpr,
    width: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    early: tl.constexpr,
):
    """The norm after attention, then the feed-forward's first layer with ReLU."""
    output = tl.program_id(0) * column_block + tl.arange(0, column_block)
    matrix = _matrix(weight, output, outputs, width)
    if early:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    inside = row[:, None] < rows
    normed = _normed(x, norm_weight, norm_bias, rows, width, row_block)
    if tl.program_id(0) == 0:
        column = tl.arange(0, width)
        tl.store(normed_out + row[:, None] * width + column[None, :], normed, mask=inside)
    made = _product(normed, matrix)
    made = tl.maximum(made + tl.load(bias + output).to(tl.float32)[None, :], 0.0)
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, made.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def contract(
    x,  # [B, 4 E]
    residual,  # float32 [B, E]
    weight,  # [E, 4 E]
    bias,
    out,  # float32 [B, E]
    rows,
    inputs: tl.constexpr,
    width: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    depth_block: tl.constexpr,
    early: tl.constexpr,
):
    """The feed-forward's second layer and the residual."""
    if early:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    inside = row[:, None] < rows
    output = tl.program_id(0) * column_block + tl.arange(0, column_block)
    made = tl.zeros((row_block, column_block), tl.float32)
    for first in tl.range(0, inputs, depth_block, num_stages=4):
        depth = first + tl.arange(0, depth_block)
        part = tl.load(x + row[:, None] * inputs + depth[None, :], mask=inside, other=0.0)
        matrix = tl.load(weight + output[:, None] * inputs + depth[None, :])
        made = tl.dot(part, tl.trans(matrix), made)
    made += tl.load(bias + output).to(tl.float32)[None, :]
    place = row[:, None] * width + output[None, :]
    made = made.to(weight.dtype.element_ty).to(tl.float32)
    made += tl.load(residual + place, mask=inside, other=0.0)
    tl.store(out + place, made, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def predict(
    x,
    norm_weight,
    norm_bias,
    weight,  # [V, E]
    bias,  # [V] or anything, see has_bias
    out,  # float32 [B, V]
    rows,
    outputs: tl.constexpr,
    width: tl.constexpr,
    has_bias: tl.constexpr,
    row_block: tl.constexpr,
    column_block: tl.constexpr,
    early: tl.constexpr,
):
    """The last norm and the logits."""
    output = tl.program_id(0) * column_block + tl.arange(0, column_block)
    matrix = _matrix(weight, output, outputs, width)
    if early:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(1) * row_block + tl.arange(0, row_block)
    normed = _normed(x, norm_weight, norm_bias, rows, width, row_block)
    made = _product(normed, matrix)
    if has_bias:
        made += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    # Rounded as the plain version's product is.
    made = made.to(weight.dtype.element_ty).to(tl.float32)
    inside = (row[:, None] < rows) & (output[None, :] < outputs)
    tl.store(out + row[:, None] * outputs + output[None, :], made, mask=inside)


@dataclass(frozen=True)
class _Buffers:
    """What a step writes and reads again; of all slots, at fixed addresses."""

    x: Tensor  # float32 [slots, E]
    normed: Tensor  # float32 [slots, E]
    query: Tensor  # half [slots, E]
    mixed: Tensor  # float32 [slots, pieces, E]
    highest: Tensor  # float32 [slots, pieces, H]
    total: Tensor  # float32 [slots, pieces, H]
    hidden: Tensor  # half [slots, 4 E]
    logits: Tensor  # float32 [slots, V]


class FusedDecode:
    """Decodes rows 0 to n - 1 of a cache with the kernels above; reads the model's own weights.

    Args:
        model: on its device, in half precision.
        cache: of the model's precision.
        early: start each kernel before the last one's end; from compute capability 9.0 on.

    ``serves`` tells beforehand whether the shapes fit.
    """

    def __init__(self, model: SemanticGPT, cache: KVCache, *, early: bool) -> None:
        config, device, half = model.config, cache.storage.device, model.precision
        self._model = model
        self._cache = cache
        self._early = early
        self._width, self._heads = config.hidden_dim, config.heads
        self._pieces = cache.max_length // PIECE
        slots = cache.slots

        def floats(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.float32, device=device)

        self._buffers = _Buffers(
            x=floats(self._width),
            normed=floats(self._width),
            query=floats(self._width).to(half),
            mixed=floats(self._pieces, self._width),
            highest=floats(self._pieces, self._heads),
            total=floats(self._pieces, self._heads),
            hidden=floats(FEED_FORWARD * self._width).to(half),
            logits=floats(config.vocabulary),
        )

    @staticmethod
    def serves(model: SemanticGPT, cache: KVCache) -> bool:
        """Whether precision and shapes are ones that the kernels know."""
        config = model.config
        return (
            model.precision in (torch.bfloat16, torch.float16)
            and config.hidden_dim in _WIDTHS
            and config.hidden_dim // config.heads in _HEAD_WIDTHS
            and cache.max_length % PIECE == 0
        )

    def __call__(self, tokens: Tensor, positions: Tensor, text_lengths: Tensor) -> Tensor:
        """Logits float32 [B, V] of rows 0 to B - 1, valid until the next call.

        Args:
            tokens, positions, text_lengths: int64 [B], as :meth:`SemanticGPT.decode` has them.
        """
        model, own, rows = self._model, self._buffers, len(tokens)
        width, config = self._width, self._model.config
        row_block = ROW_BLOCK if rows <= ROW_BLOCK else 2 * ROW_BLOCK
        blocks = triton.cdiv(rows, row_block)
        start = {"early": self._early, **({"launch_pdl": True} if self._early else {})}
        tiles = {"row_block": row_block, "column_block": COLUMN_BLOCK, **start}
        storage, slot_stride = self._cache.storage, self._cache.storage.stride(0)
        shape = {
            "heads": self._heads,
            "head_width": width // self._heads,
            "pieces": self._pieces,
            "piece": PIECE,
        }
        scale = _LOG2_E / math.sqrt(width // self._heads)

        def columns(outputs: int) -> tuple[int, int]:
            return triton.cdiv(outputs, COLUMN_BLOCK), blocks

        embed[rows,](
            tokens, positions, text_lengths, model.audio_embedding.weight, model.audio_alpha,
            model.position_table, own.x, rows, width=width, num_warps=4,
        )  # fmt: skip
        norm: Any = None
        for index, layer in enumerate(self._layers()):
            attention = layer.attention
            before = norm or layer.attention_norm  # of the first layer it is not read
            keys, values = storage[0, 2 * index], storage[0, 2 * index + 1]
            project_inputs[columns(3 * width)](
                own.x, before.weight, before.bias, own.normed, attention.qkv.weight,
                attention.qkv.bias, positions, own.query, keys, values, rows, slot_stride,
                width=width, has_norm=norm is not None, num_warps=8, **tiles,
            )  # fmt: skip
            attend[self._heads, rows, min(self._pieces, _splits(rows))](
                own.query, keys, values, positions, own.mixed, own.highest, own.total,
                slot_stride, scale, num_warps=8, **shape, **start,
            )  # fmt: skip
            project_attended[columns(width)](
                own.mixed, own.highest, own.total, positions, own.normed, attention.output.weight,
                attention.output.bias, own.x, rows, num_warps=8, **shape, **tiles,
            )  # fmt: skip
            expand[columns(FEED_FORWARD * width)](
                own.x, layer.attention_norm.weight, layer.attention_norm.bias, own.normed,
                layer.expand.weight, layer.expand.bias, own.hidden, rows,
                outputs=FEED_FORWARD * width, width=width, num_warps=4, **tiles,
            )  # fmt: skip
            contract[columns(width)](
                own.hidden, own.normed, layer.contract.weight, layer.contract.bias, own.x, rows,
                inputs=FEED_FORWARD * width, width=width, depth_block=DEPTH_BLOCK, num_warps=4,
                **tiles,
            )  # fmt: skip
            norm = layer.feed_forward_norm
        head = model.head
        predict[columns(config.vocabulary)](
            own.x, norm.weight, norm.bias, head.weight,
            head.weight if head.bias is None else head.bias, own.logits, rows,
            outputs=config.vocabulary, width=width, has_bias=head.bias is not None, num_warps=4,
            **tiles,
        )  # fmt: skip
        return own.logits[:rows]

    def _layers(self) -> Iterator[Block]:
        for layer in self._model.layers:
            assert isinstance(layer, Block)
            yield layer


def _splits(rows: int) -> int:
    """Programs that share the positions of one head of one row; many rows fill a GPU alone."""
    return max(2, 16 // rows)
