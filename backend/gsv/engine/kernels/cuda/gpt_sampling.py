"""Drawing the next tokens on a GPU as one kernel, noise included.

The plain version is :func:`gsv.engine.gpt.sampling.draw` with
:func:`gsv.engine.noise.exponential_steps`; this one makes the same numbers from the same addresses.
Order statistics need no sort: the k-th largest of some thousand values is found bit by bit, by
counting who is at least as large.

Imports Triton's language, so import this module only where :func:`triton_serves` says yes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gsv.constants import EOS_FREE_STEPS
from gsv.engine.gpt.sampling import MIN_TEMPERATURE
from gsv.engine.noise import Stream

_MIN_TEMPERATURE = tl.constexpr(MIN_TEMPERATURE)
_TO_UNIT = tl.constexpr(2.0**-32)
_TOKENS_STREAM = tl.constexpr(int(Stream.TOKENS))
_FREE_STEPS = tl.constexpr(EOS_FREE_STEPS)
# Philox4x64-10: multipliers and the increments of the key (Salmon et al. 2011).
_MULTIPLIER_0 = tl.constexpr(0xD2E7470EE14C6C93)
_MULTIPLIER_1 = tl.constexpr(0xCA5A826395121157)
_INCREMENT_0 = tl.constexpr(0x9E3779B97F4A7C15)
_INCREMENT_1 = tl.constexpr(0xBB67AE8584CAA73B)
OUTCOME = 3  # numbers that a row's draw gives: token, ended, healthy


@triton.jit
def _philox(counter, key_0, key_1):
    """Four words of 64 bits for each of ``counter``, whose higher words are 0."""
    zero = counter * 0
    a, b, c, d = counter, zero, zero, zero
    first = zero + key_0
    second = zero + key_1
    multiplier_0 = tl.full((1,), _MULTIPLIER_0, tl.uint64)
    multiplier_1 = tl.full((1,), _MULTIPLIER_1, tl.uint64)
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(a, multiplier_0), a * multiplier_0
        high_1, low_1 = tl.umulhi(c, multiplier_1), c * multiplier_1
        a, b, c, d = high_1 ^ b ^ first, low_1, high_0 ^ d ^ second, low_0
        first += tl.full((1,), _INCREMENT_0, tl.uint64)
        second += tl.full((1,), _INCREMENT_1, tl.uint64)
    return a, b, c, d


@triton.jit
def exponential(seed, sentence, step, index, width: tl.constexpr):
    """Exp(1) noise of one step at ``index``, as ``exponential_steps`` has it; float32."""
    blocks: tl.constexpr = (width + 7) // 8
    # NumPy's generator counts up before its first block.
    counter = (step * blocks + index // 8 + 1).to(tl.uint64)
    key_1 = (sentence.to(tl.uint64)) | (tl.full((1,), _TOKENS_STREAM, tl.uint64) << 32)
    a, b, c, d = _philox(counter, seed.to(tl.uint64), key_1)
    word = (index % 8) // 2
    chosen = tl.where(word == 0, a, tl.where(word == 1, b, tl.where(word == 2, c, d)))
    half = tl.where(index % 2 == 0, chosen & 0xFFFFFFFF, chosen >> 32)
    uniform = (half.to(tl.float64) + 0.5) * _TO_UNIT
    return (-tl.log(1.0 - uniform)).to(tl.float32)


@triton.jit
def _ordered(values):
    """Unsigned integers in the order of float32 ``values``."""
    bits = values.to(tl.int32, bitcast=True)
    flipped = tl.where(bits < 0, ~bits, bits | -2147483648)
    return flipped.to(tl.uint32, bitcast=True)


@triton.jit
def _kth_largest(keys, count):
    """The ``count``-th largest of ``keys``."""
    found = tl.zeros((1,), tl.uint32)
    for bit in tl.static_range(32):
        wanted = found | (tl.full((1,), 1, tl.uint32) << (31 - bit))
        reached = tl.sum((keys >= wanted).to(tl.int32), axis=0) >= count
        found = tl.where(reached, wanted, found)
    return found


@triton.jit
def _crossing(keys, shares, limit):
    """The largest key at and above which the shares sum to more than ``limit``."""
    found = tl.zeros((1,), tl.uint32)
    for bit in tl.static_range(32):
        wanted = found | (tl.full((1,), 1, tl.uint32) << (31 - bit))
        exceeded = tl.sum(tl.where(keys >= wanted, shares, 0.0), axis=0) > limit
        found = tl.where(exceeded, wanted, found)
    return found


@triton.jit(do_not_specialize=["first_row"])
def draw_rows(
    logits,  # float32 [rows, V]
    seen,  # uint8 [slots, V]
    integers,  # int64 [6, slots]: see RowState
    controls,  # float32 [4, slots]: top_k, top_p, temperature, penalty
    outcome,  # int32 [slots, 3]
    first_row,
    logits_stride,
    slots: tl.constexpr,
    vocabulary: tl.constexpr,
    eos: tl.constexpr,
    advance: tl.constexpr,
    block: tl.constexpr,
):
    """One row a program: draw, and write down what the next step reads."""
    row = tl.program_id(0) + first_row
    active = tl.load(integers + 6 * slots + row)
    if active != 0:
        index = tl.arange(0, block)
        inside = index < vocabulary
        given = tl.load(logits + tl.program_id(0) * logits_stride + index, mask=inside, other=0.0)
        healthy = tl.sum((tl.abs(given) < float("inf")).to(tl.int32), axis=0) == block
        step = tl.load(integers + 3 * slots + row)
        barred = (index == eos) & (step < _FREE_STEPS)
        scores = tl.where(inside & (barred == 0), given, float("-inf"))
        penalty = tl.load(controls + 3 * slots + row)
        known = tl.load(seen + row * vocabulary + index, mask=inside, other=0) != 0
        punished = tl.where(scores < 0, scores * penalty, scores / penalty)
        scores = tl.where(known, punished, scores)
        best = tl.argmax(scores, axis=0)

        top_p = tl.load(controls + slots + row)
        if top_p < 1.0:
            shares = tl.exp(scores - tl.max(scores, axis=0))
            shares = tl.where(inside, shares / tl.sum(shares, axis=0), 0.0)
            keys = _ordered(scores)
            kept = (keys > _crossing(keys, shares, top_p)) | (index == best)
            scores = tl.where(kept, scores, float("-inf"))
        temperature = tl.load(controls + 2 * slots + row)
        scores = scores / tl.maximum(temperature, _MIN_TEMPERATURE)
        top_k = tl.load(controls + row).to(tl.int32)
        keys = tl.where(inside, _ordered(scores), 0)
        scores = tl.where(keys >= _kth_largest(keys, top_k), scores, float("-inf"))
        shares = tl.exp(scores - tl.max(scores, axis=0))
        shares = shares / tl.sum(shares, axis=0)
        seed, sentence = tl.load(integers + 4 * slots + row), tl.load(integers + 5 * slots + row)
        noise = exponential(seed, sentence, step, index, vocabulary)
        token = tl.argmax(tl.where(inside, shares / noise, -1.0), axis=0)
        # Of logits that are not finite it may be anything, and the next step reads it as an index.
        token = tl.minimum(token, vocabulary - 1)
        ended = (token == eos) | (best == eos)

        tl.store(integers + row, token.to(tl.int64))
        if advance:
            position = tl.load(integers + slots + row)
            tl.store(integers + slots + row, position + 1)
        tl.store(integers + 3 * slots + row, step + 1)
        tl.store(seen + row * vocabulary + token, 1)
        tl.store(outcome + row * 3, token)
        tl.store(outcome + row * 3 + 1, ended.to(tl.int32))
        tl.store(outcome + row * 3 + 2, healthy.to(tl.int32))


def draw_fused(
    logits: Tensor,
    seen: Tensor,
    integers: Tensor,
    controls: Tensor,
    outcome: Tensor,
    *,
    first_row: int,
    eos: int,
    advance: bool,
) -> None:
    """Draw for rows ``first_row`` onwards, one for each row of ``logits``; all on the device.

    Args:
        logits: float32 [B, V].
        seen: bool [slots, V]; the drawn tokens are added.
        integers: int64 [7, slots], as :class:`gsv.engine.gpt.row_state.RowState` orders them.
        controls: float32 [4, slots], likewise.
        outcome: int32 [slots, 3], written: token, ended, healthy.
        first_row: the slot of the first row of ``logits``.
        eos: the token that ends a row.
        advance: whether the positions move on (after a decoding step, not after prefill).
    """
    vocabulary, slots = logits.shape[1], seen.shape[0]
    draw_rows[len(logits),](
        logits, seen.view(torch.uint8), integers, controls, outcome, first_row,
        logits.stride(0), slots=slots, vocabulary=vocabulary, eos=eos, advance=advance,
        block=triton.next_power_of_2(vocabulary), num_warps=4,
    )  # fmt: skip
