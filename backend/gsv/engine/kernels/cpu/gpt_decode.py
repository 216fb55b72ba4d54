"""The semantic GPT's decoding step through ``gpt_decode.c``."""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, Structure, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from gsv.engine.gpt.cache import KVCache
from gsv.engine.kernels.cpu.build import load_kernel
from gsv.engine.kernels.cpu.weight_arena import WeightArena
from gsv.models.gpt import Block, SemanticGPT
from gsv.models.layers import Linear

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_HEADS = 4  # heads that the kernel attends at once
_HEAD_WIDTHS = (16, 32, 64)
_CACHE_LINE = 64  # bytes; the kernel reads int8 rows in steps of it
_TRIAL_ROWS = (1, 2)  # more rows are worth all threads: they compute, and don't only read
_TRIAL_LENGTH = 256
_TRIALS = 4
_TOLERANCE = 0.15  # another thread must bring more than this


class _LinearWeights(Structure):
    _fields_ = (("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p))


class _Layer(Structure):
    _fields_ = (
        ("qkv", _LinearWeights),
        ("output", _LinearWeights),
        ("expand", _LinearWeights),
        ("contract", _LinearWeights),
        ("attention_norm", c_void_p * 2),
        ("feed_forward_norm", c_void_p * 2),
    )


class _Model(Structure):
    _fields_ = (
        ("layers", c_int64),
        ("width", c_int64),
        ("heads", c_int64),
        ("vocabulary", c_int64),
        ("weight_type", c_int64),
        ("cache_type", c_int64),
        ("threads", c_int64),
        ("layer", POINTER(_Layer)),
        ("head", _LinearWeights),
        ("embedding", c_void_p),
        ("positions", c_void_p),
        ("steps", c_int64),
        ("cache", c_void_p),
        ("row_stride", c_int64),
        ("plane_stride", c_int64),
    )


class NativeDecode:
    """Decodes rows 0 to n - 1 of a cache; ``create`` makes one where the kernel can run.

    The model's own weights, which move to large pages, and the cache are read in place, so both
    must stay as they are. With int8, the decoding step reads rounded copies of the matrices, one
    scale for each output.
    """

    @classmethod
    def create(
        cls, model: SemanticGPT, cache: KVCache, *, int8: bool = False
    ) -> NativeDecode | None:
        """None when the processor, the compiler, the precision or the shape isn't right."""
        config = model.config
        head_width = config.hidden_dim // config.heads
        fits = head_width in _HEAD_WIDTHS and config.heads % _HEADS == 0
        fits = fits and config.hidden_dim % _CACHE_LINE == 0
        on_cpu = cache.storage.device.type == "cpu"
        if not (fits and on_cpu and model.precision in (torch.float32, torch.bfloat16)):
            return None
        library = load_kernel("gpt_decode")
        return None if library is None else cls(library, model, cache, int8=int8)

    def __init__(
        self, library: ctypes.CDLL, model: SemanticGPT, cache: KVCache, *, int8: bool
    ) -> None:
        self._library = library
        library.gsv_scratch.restype = c_int64
        library.gsv_scratch.argtypes = [POINTER(_Model), c_int64, c_int64]
        library.gsv_decode.restype = c_int
        arguments: list[Any] = [POINTER(_Model), c_int64, c_int64, *5 * [c_void_p]]
        library.gsv_decode.argtypes = arguments
        self._int8 = int8
        self._kept: list[Tensor] = []  # what only the kernel points to
        matrices = [m.weight for m in model.modules() if isinstance(m, Linear)]
        self._arena = WeightArena([m.numel() if int8 else m.nbytes for m in matrices])
        config = model.config
        self._layers = (_Layer * config.layers)(*(self._layer(block) for block in model.layers))
        self._model = _Model(
            layers=config.layers,
            width=config.hidden_dim,
            heads=config.heads,
            vocabulary=config.vocabulary,
            weight_type=_TYPES[torch.int8 if int8 else model.precision],
            cache_type=_TYPES[cache.storage.dtype],
            threads=torch.get_num_threads(),
            layer=self._layers,
            head=self._linear(model.head),
            embedding=self._keep(model.audio_embedding.weight),
            positions=self._keep(model.audio_alpha * model.position_table),
            steps=len(model.position_table),
            cache=cache.storage.data_ptr(),
            row_stride=cache.storage.stride(0),
            plane_stride=cache.storage.stride(1),
        )
        self._cache = cache
        self._threads: dict[int, int] = {}  # for so many rows; filled by ``tune``
        self._most_threads: int = self._model.threads
        self._scratch = torch.empty(0)
        self._logits = torch.empty(cache.slots, config.vocabulary)

    def __call__(
        self, tokens: Tensor, positions: Tensor, text_lengths: Tensor, length: int
    ) -> Tensor:
        """As ``SemanticGPT.decode``; every position is below ``length``.

        Returns:
            float32 [B, V], valid until the next call.
        """
        rows = len(tokens)
        self._model.threads = self._threads_for(rows)
        needed = self._library.gsv_scratch(self._model, rows, length)
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        status = self._library.gsv_decode(
            self._model,
            rows,
            length,
            tokens.data_ptr(),
            positions.data_ptr(),
            text_lengths.data_ptr(),
            self._scratch.data_ptr(),
            self._logits.data_ptr(),
        )
        if status:
            raise IndexError(f"a token or position of {rows} rows is out of range at {length}")
        return self._logits[:rows]

    def tune(self) -> None:
        """Find by trial how many threads a step should take; overwrites the cache's rows.

        Decoding a few rows is reading the weights, and one core may read about as fast as all of
        them. The rest is then free for others, and nobody waits for a thread that has lost its
        core. Results don't depend on the number of threads, bit by bit.
        """
        if self._most_threads == 1:
            return
        choices = sorted({1, *(n for n in (2, 4, 8, 16) if n < self._most_threads)})
        choices.append(self._most_threads)
        best: dict[int, int] = {}
        for rows in (n for n in _TRIAL_ROWS if n <= self._cache.slots):
            state = torch.tensor([[0], [_TRIAL_LENGTH - 1], [1]]).expand(3, rows).contiguous()
            times = []
            for threads in choices:
                self._threads = {rows: threads}
                times.append(min(self._time(*state) for _ in range(_TRIALS)))
            is_buffered = min(times) * (1 + _TOLERANCE)
            best[rows] = next(n for n, t in zip(choices, times, strict=True) if t <= is_buffered)
        self._threads = best

    def _time(self, tokens: Tensor, positions: Tensor, text_lengths: Tensor) -> float:
        started = time.perf_counter()
        self(tokens, positions, text_lengths, _TRIAL_LENGTH)
        return time.perf_counter() - started

    def _threads_for(self, rows: int) -> int:
        return self._threads.get(rows, self._most_threads)

    def _layer(self, block: nn.Module) -> _Layer:
        assert isinstance(block, Block)
        layer = _Layer(
            qkv=self._linear(block.attention.qkv),
            output=self._linear(block.attention.output),
            expand=self._linear(block.expand),
            contract=self._linear(block.contract),
        )
        for pair, norm in (
            (layer.attention_norm, block.attention_norm),
            (layer.feed_forward_norm, block.feed_forward_norm),
        ):
            pair[0], pair[1] = self._keep(norm.weight), self._keep(norm.bias)
        return layer

    def _linear(self, module: nn.Linear) -> _LinearWeights:
        bias = None if module.bias is None else self._keep(module.bias.float())
        if not self._int8:
            # The model reads the same copy, so that there is one.
            module.weight.data = self._arena.add(module.weight)
            return _LinearWeights(weight=self._keep(module.weight), scale=None, bias=bias)
        rounded, scale = quantize(module.weight)
        weight = self._keep(self._arena.add(rounded))
        return _LinearWeights(weight=weight, scale=self._keep(scale), bias=bias)

    def _keep(self, tensor: Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8 with one scale for each output.

    Returns:
        int8 [outputs, inputs] and float32 [outputs]; their product is close to ``weight``.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale
