"""Setting up a thread's device, and telling errors that end a process from those that don't."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from acoustic_models import sovits

from gsv import device
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.gpt.worker import Counters, Worker
from gsv.errors import GsvError, VoiceError
from gsv.voices.weight_cache import WeightCache

ILLEGAL_ADDRESS = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"


class Coded(RuntimeError):
    """What PyTorch raises from 2.8 on, with the code of the CUDA call."""

    def __init__(self, code: int, text: str = "CUDA error: something") -> None:
        super().__init__(text)
        self.error_code = code


def wrapped(cause: BaseException) -> GsvError:
    """An error of ours that comes from another one."""
    error = GsvError("flow matching failed")
    error.__cause__ = cause
    return error


class Ended(BaseException):
    """The process would have ended here."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Exit codes that were asked for; asking raises."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(device.os, "_exit", end)
    monkeypatch.setattr(device, "_ends_process", True)
    return iter([codes]).__next__()


def test_a_thread_computes_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device.prepare("cpu") == torch.device("cpu")
    assert chosen == []
    assert device.prepare("cuda:2") == torch.device("cuda", 2)
    assert device.prepare(torch.device("cuda")) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 2), torch.device("cuda", 1)]


def test_float32_is_float32_and_halves_are_summed_in_float32() -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    torch.backends.cuda.enable_cudnn_sdp(True)
    device.prepare("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_free_memory_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def info(of: torch.device) -> tuple[int, int]:
        asked.append(of)
        return 5, 16

    monkeypatch.setattr(torch.cuda, "mem_get_info", info)
    assert device.memory_free("cuda:1") == 5
    assert asked == [torch.device("cuda", 1)]
    assert device.memory_free("cpu") is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ILLEGAL_ADDRESS),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(`"),
        Coded(700),
        Coded(719, "without the usual words"),
        wrapped(RuntimeError(ILLEGAL_ADDRESS)),
        wrapped(wrapped(Coded(214))),
        torch.AcceleratorError(ILLEGAL_ADDRESS),
    ],
)
def test_errors_that_break_the_context_are_fatal(error: BaseException) -> None:
    assert device.is_fatal(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB; CUDA error"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        Coded(2),
        Coded(901),
        RuntimeError("shape '[3]' is invalid for input of size 4"),
        ValueError(ILLEGAL_ADDRESS),
        wrapped(torch.OutOfMemoryError("CUDA out of memory")),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not device.is_fatal(error)


def test_an_error_that_was_met_while_handling_a_fatal_one_is_fatal() -> None:
    error = KeyError("cleaning up")
    error.__context__ = Coded(700)
    assert device.is_fatal(error)


def test_errors_that_come_from_each_other_are_followed_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not device.is_fatal(first)


def test_the_process_says_why_and_ends() -> None:
    code = (
        "from gsv import device\n"
        "device.end_on_fatal()\n"
        "device.end_if_fatal(RuntimeError('CUDA error: out of memory'))\n"
        "device.end_if_fatal(RuntimeError('CUDA error: unspecified launch failure'))\n"
        "raise SystemExit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this process ends to be started anew" in done.stderr
    assert "unspecified launch failure" in done.stderr


def test_outside_of_a_server_the_process_goes_on(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_ends_process", False)
    device.end_if_fatal(Coded(700))
    assert ends == []


def test_what_all_need_and_has_broken_ends_the_process(
    ends: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Ended):
        device.end_if_served(MemoryError("full"), "the flow engine")
    assert ends == [1]
    said = capsys.readouterr().err
    assert said.startswith("the flow engine broke; this process ends to be started anew")
    assert "MemoryError: full" in said
    monkeypatch.setattr(device, "_ends_process", False)
    device.end_if_served(MemoryError("full"), "the flow engine")


def test_the_semantic_engine_ends_the_process(ends: list[int]) -> None:
    worker = Worker(None, SimpleNamespace(runs_ahead=False), Counters(), threading.Condition())  # type: ignore[arg-type]
    with pytest.raises(Ended):
        worker._fail([], "decoding", Coded(700))
    assert ends == [1]


def test_the_loader_of_voices_prepares_its_thread_and_ends_the_process(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    monkeypatch.setattr("gsv.voices.weight_cache.prepare", prepared.append)

    def load(key: str, path: object) -> str:
        raise VoiceError("can't be loaded") from Coded(700)

    weight_cache: WeightCache[str] = WeightCache(
        "loader", voices=None, which=None, size=None, load=load, unload=None,  # type: ignore[arg-type]
        budget=1, waiting_limit=1, device="cuda:1",
    )  # fmt: skip
    entry = type("Entry", (), {"leaving": False, "path": None})
    weight_cache._entries["a"] = entry  # type: ignore[assignment]
    monkeypatch.setattr(weight_cache, "_next", iter(["a", None]).__next__)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            weight_cache._run()
        except Ended as ended:
            failed.append(ended)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert prepared == ["cuda:1"]
    assert ends == [1]
    assert failed


def test_an_engine_prepares_its_thread_and_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    prepared: list[torch.device] = []
    monkeypatch.setattr(device.os, "_exit", codes.append)
    monkeypatch.setattr(device, "_ends_process", True)
    monkeypatch.setattr("gsv.engine.core.prepare", prepared.append)
    flow = sovits("tiny").flow
    engine = FlowEngine(flow)

    def broken(runs: object) -> None:
        raise Coded(719)

    monkeypatch.setattr(engine._runner, "step", broken)
    engine.start()
    condition = torch.zeros(flow.condition_channels, 8)
    with pytest.raises(GsvError, match="flow matching failed"):
        engine.run(FlowRequest(condition, torch.zeros(flow.mel_channels, 4), steps=1))
    engine.stop()
    assert codes == [1]
    assert prepared == [torch.device("cpu")]
