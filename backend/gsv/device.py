"""The device that a thread computes on: its settings, memory, uploads and fatal errors."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray

# CUDA errors after which the process can go on: the call at fault has failed and nothing else. All
# others may have left the context in a state in which every later call fails too (driver_types.h).
_PASSING_CODES = frozenset(
    {
        1,  # invalid value
        2,  # out of memory
        9,  # invalid configuration
        98,  # invalid device function
        209,  # no kernel image for this device
        400,  # invalid resource handle
        600,  # not ready
        701,  # out of resources at launch
        801,  # not supported
        *range(900, 911),  # stream capture: the capture is lost, the stream is not
    }
)
# The same in the words of errors that carry no code (PyTorch before 2.8, cuBLAS).
_PASSING_WORDS = (
    "out of memory",
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "no kernel image is available",
    "invalid resource handle",
    "device not ready",
    "too many resources requested",
    "operation not supported",
    "captur",  # all of 900 to 910 but two
    "dependency created on uncaptured work",
    "operation would make the legacy stream depend",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no memory for its handle
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_INVALID_VALUE",
)
_ends_process = False


def prepare(device: str | torch.device) -> torch.device:
    """Set the calling thread up to compute on ``device``; cheap, so that any thread may call it.

    A new thread computes on GPU 0 until it is told otherwise. The other settings are of the whole
    process: float32 is computed in float32 (no TF32), half types are summed up in float32, and
    attention is not handed to cuDNN, which builds a plan for every new shape and thread.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The device; of a GPU with its index.
    """
    device = torch.device(device)
    torch.backends.cudnn.allow_tf32 = False
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = False
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):  # from PyTorch 2.5 on
        torch.backends.cuda.enable_cudnn_sdp(False)
    if device.type != "cuda":
        return device
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device


def memory_free(device: str | torch.device) -> int | None:
    """Bytes of ``device`` that no process has taken; None for a CPU, whose memory can be shared."""
    device = torch.device(device)
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def synchronize(device: str | torch.device) -> None:
    """Wait until ``device`` has done what this thread's stream was given, so that others may read.

    Nothing to wait for on a CPU.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def upload(array: NDArray[Any], device: str | torch.device) -> torch.Tensor:
    """``array`` on ``device``, without waiting for what the device still has to do.

    On a CPU the tensor shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def is_fatal(error: BaseException) -> bool:
    """Whether ``error``, or one that it comes from, leaves this process without a usable GPU.

    After an illegal address, an uncorrectable memory fault or a lost device each later call fails
    too, whoever makes it. Memory that ran out and captures that failed are no such errors.
    """
    return any(_breaks_context(one) for one in _causes(error))


def end_if_fatal(error: BaseException) -> None:
    """End the process if the error is fatal and :func:`end_on_fatal` was called; else return."""
    if _ends_process and is_fatal(error):
        end_process(error)


def end_if_served(error: BaseException, what: str) -> None:
    """End the process, as :func:`end_if_fatal` does, since ``what`` has broken that all need."""
    if _ends_process:
        end_process(error, f"{what} broke")


def end_on_fatal() -> None:
    """Let :func:`end_if_fatal` end this process: it belongs to a server, which starts it anew."""
    global _ends_process
    _ends_process = True


def end_process(error: BaseException, why: str = "the GPU can't be used any more") -> None:
    """Say why on stderr and end at once: no cleaning up, which would wait for the GPU."""
    try:
        sys.stderr.write(f"{why}; this process ends to be started anew\n")
        traceback.print_exception(type(error), error, error.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__]


def _breaks_context(error: BaseException) -> bool:
    # torch.AcceleratorError (PyTorch 2.8) is a RuntimeError, and so is what older ones raise.
    if not isinstance(error, RuntimeError) or isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    code = getattr(error, "error_code", None)
    if isinstance(code, int) and code != 0:
        return code not in _PASSING_CODES
    text = str(error)
    return "CUDA error" in text and not any(words in text for words in _PASSING_WORDS)
