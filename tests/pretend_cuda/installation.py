"""Puts the pretended devices in torch's place, and takes them away again without a trace."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pretend_cuda import host
from pretend_cuda.graphs import CUDAGraph, graph, graph_pool_handle, is_capturing
from pretend_cuda.log import Log, Site
from pretend_cuda.machine import Machine, machine, switch_off, switch_on
from pretend_cuda.memory import use
from pretend_cuda.plain import leaves, plainly
from pretend_cuda.streams import Event, Stream
from pretend_cuda.tensors import CudaTensor, attention, dispatch, is_cuda, move, signature, upload

# Where product code asks whether it may run kernels of its own: a pretended device runs none.
KERNELS_VARIABLE = "GSV_KERNELS"
READING = {
    "tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__complex__",
}  # fmt: skip
THREAD_END_SECONDS = 5.0


@contextlib.contextmanager
def pretend_cuda(
    devices: int = 2,
    memory: int = 80 << 30,
    capability: tuple[int, int] = (9, 0),
    loading: Collection[Site] = (),
) -> Iterator[Machine]:
    """Within: torch has CUDA devices, in this thread and in those that are started.

    Args:
        devices: how many.
        memory: bytes of each.
        capability: compute capability of each.
        loading: functions beneath which waiting for the device isn't counted.

    Raises:
        RuntimeError: at the end, if a thread that was started within still runs.
    """
    made = Machine(Log(loading), devices, memory, capability)
    with contextlib.ExitStack() as undo:
        undo.enter_context(_kept_flags())
        for target, name, value in _replacements(made):
            undo.enter_context(mock.patch.object(target, name, value, create=True))
        undo.enter_context(mock.patch.dict(os.environ, {KERNELS_VARIABLE: "plain"}))
        undo.callback(
            torch.__future__.set_overwrite_module_params_on_conversion,
            torch.__future__.get_overwrite_module_params_on_conversion(),
        )
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        switch_on(made)
        undo.callback(switch_off)
        with _modes():
            yield made
            for thread in list(made.threads):
                thread.join(THREAD_END_SECONDS)
            made.finish()
        if left := [thread.name for thread in made.threads if thread.is_alive()]:
            raise RuntimeError(f"threads outlive the device that they were started with: {left}")


@contextlib.contextmanager
def _modes() -> Iterator[None]:
    with _Functions(), _Dispatch():
        yield


class _Dispatch(TorchDispatchMode):
    """Operators of the calling thread: those of the device, and those on pinned memory."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = machine()
        given = list(leaves((args, kwargs)))
        ours = {"cuda", "meta"} if own.inside else {"cuda"}
        if any(
            isinstance(x, CudaTensor) or (isinstance(x, torch.device) and x.type in ours)
            for x in given
        ):
            return dispatch(func, args, kwargs)
        if own.undelivered and not signature(func).views:
            for value in given:
                if isinstance(value, Tensor):
                    host.check(own, value, signature(func).name)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What must be caught before torch's own code takes it apart."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if handler := _HANDLERS.get(name):
            made = handler(func, args, kwargs)
            if made is not NotImplemented:
                return made
        if kwargs.pop("pin_memory", False):
            with plainly():
                return host.pin(func(*args, **kwargs).clone())
        if name.startswith(("new_", "empty_like", "zeros_like", "ones_like", "full_like")) and (
            args
            and isinstance(args[0], CudaTensor)
            and kwargs.get("device") is not None
            and not is_cuda(kwargs["device"])
        ):
            with plainly():
                return func(args[0].leased, *args[1:], **kwargs)
        on_device = [x for x in leaves((args, kwargs)) if isinstance(x, CudaTensor)]
        if not on_device:
            return func(*args, **kwargs)
        inside = machine().inside
        inside.append(on_device[0].index)
        try:
            return func(*args, **kwargs)
        finally:
            inside.pop()


def _to(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``to``, ``cpu``, ``cuda`` and ``type_as``, whenever a pretended device is concerned."""
    source, *rest = args
    more: dict[str, Any] = {}
    name = func.__name__
    copy = kwargs.pop("copy", False)
    other = kwargs.get("other", rest[0] if rest else None)
    if isinstance(other, Tensor):
        device, dtype, non_blocking = other.device, other.dtype, kwargs.get("non_blocking", False)
    elif name == "cpu":
        device, dtype, non_blocking = torch.device("cpu"), None, False
    elif name == "cuda":
        chosen = kwargs.get("device", rest[0] if rest else None)
        device = torch.device("cuda", machine().index_of(chosen))
        dtype, non_blocking = None, kwargs.get("non_blocking", False)
    else:
        if rest and isinstance(rest[0], int):
            rest[0] = torch.device("cuda", rest[0])
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*rest, **kwargs)
        more = {} if layout is None else {"memory_format": layout}
    if not isinstance(source, CudaTensor) and not (device is not None and is_cuda(device)):
        if copy:
            kwargs["copy"] = copy
        return NotImplemented
    return move(source, device, dtype, non_blocking, copy, **more)


def _made_of_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``tensor``, ``as_tensor`` and ``asarray`` of numbers for the device, or of its tensors."""
    data, device = args[0] if args else kwargs["data"], kwargs.get("device")
    if isinstance(data, CudaTensor):
        return move(data, device, kwargs.get("dtype"), copy=func.__name__ == "tensor")
    if device is None or not is_cuda(device):
        return NotImplemented
    index = machine().index_of(kwargs.pop("device"))
    with plainly():
        made = func(*args, **kwargs)
    return upload(made, index, made.dtype, non_blocking=False)


def _read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values as Python's own numbers, for which the host waits."""
    (values,) = args
    own = machine()
    if not isinstance(values, CudaTensor):
        host.check(own, values, func.__name__)
        return NotImplemented
    own.wait(func.__name__)
    stream = own.current_stream(values.index)
    use(stream, [values.memory], [])
    stream.finish()
    with plainly():
        return getattr(values.leased, func.__name__)()


def _numpy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An array of the same memory, which the host alone has."""
    values = args[0]
    if isinstance(values, CudaTensor):
        raise TypeError(f"can't convert {values.device} device type tensor to numpy")
    host.check(machine(), values, func.__name__)
    return NotImplemented


def _pin_memory(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A copy in pinned memory."""
    values = args[0]
    if isinstance(values, CudaTensor):
        raise RuntimeError(f"cannot pin a tensor of {values.device}: only CPU memory can be pinned")
    if host.is_pinned(values):
        return values
    machine().refuse_in_capture("pin_memory")
    with plainly():
        return host.pin(values.clone())


def _is_pinned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return not isinstance(args[0], CudaTensor) and host.is_pinned(args[0])


def _data_ptr(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0].leased.data_ptr() if isinstance(args[0], CudaTensor) else NotImplemented


_HANDLERS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {
    **dict.fromkeys(("to", "cpu", "cuda", "type_as"), _to),
    **dict.fromkeys(("tensor", "as_tensor", "asarray"), _made_of_data),
    **dict.fromkeys(READING, _read),
    **dict.fromkeys(("numpy", "__array__"), _numpy),
    "pin_memory": _pin_memory,
    "is_pinned": _is_pinned,
    "data_ptr": _data_ptr,
}


def _replacements(own: Machine) -> Iterator[tuple[Any, str, Any]]:
    """What is replaced: the object, the attribute and its new value."""
    cuda = torch.cuda
    yield threading.Thread, "start", _starting(own, threading.Thread.start)
    for name, value in _torch_cuda(own).items():
        yield cuda, name, value
    yield cuda.graphs, "CUDAGraph", CUDAGraph


def _starting(
    own: Machine, start: Callable[[threading.Thread], None]
) -> Callable[[threading.Thread], None]:
    """``Thread.start`` for threads that shall see the device as well."""

    def start_with_device(thread: threading.Thread) -> None:
        run = thread.run

        def run_with_device() -> None:
            del thread.run  # type: ignore[method-assign]
            with _modes():
                run()

        thread.run = run_with_device  # type: ignore[method-assign]
        own.threads.add(thread)
        start(thread)

    return start_with_device


def _torch_cuda(own: Machine) -> dict[str, Any]:
    """What takes the place of ``torch.cuda``'s functions and classes."""

    def usage(device: Any = None) -> Any:
        return own.usage[own.index_of(device)]

    def synchronize(device: Any = None) -> None:
        own.wait("torch.cuda.synchronize")
        index = own.index_of(device)
        for stream in list(own.streams):
            if stream.device.index == index:
                stream.finish()

    def set_device(device: Any) -> None:
        own.device = own.index_of(device)

    def empty_cache() -> None:
        own.refuse_in_capture("empty_cache")
        for one in own.usage:
            one.reserved = one.allocated

    def reset_peak(device: Any = None) -> None:
        usage(device).peak = usage(device).allocated

    def properties(device: Any = None) -> SimpleNamespace:
        own.index_of(device)
        major, minor = own.capability
        return SimpleNamespace(
            name="Pretended GPU", major=major, minor=minor, total_memory=own.memory,
            multi_processor_count=132, warp_size=32, is_integrated=0, is_multi_gpu_board=0,
            L2_cache_size=50 << 20, shared_memory_per_block_optin=227 << 10,
        )  # fmt: skip

    def stream_context(stream: Stream | None) -> Any:
        return contextlib.nullcontext() if stream is None else _entered(stream)

    return {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: len(own.usage),
        "is_bf16_supported": lambda *_, **__: own.capability >= (8, 0),
        "get_device_capability": lambda device=None: own.capability,
        "get_device_name": lambda device=None: properties(device).name,
        "get_device_properties": properties,
        "current_device": lambda: own.device,
        "set_device": set_device,
        "device": _device_context(own),
        "synchronize": synchronize,
        "Stream": Stream,
        "ExternalStream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: own.current_stream(own.index_of(device)),
        "default_stream": lambda device=None: own.default_stream(own.index_of(device)),
        "set_stream": own.choose_stream,
        "stream": stream_context,
        "StreamContext": stream_context,
        "CUDAGraph": CUDAGraph,
        "graph": type("graph", (graph,), {"default_capture_stream": None}),
        "graph_pool_handle": graph_pool_handle,
        "is_current_stream_capturing": is_capturing,
        "empty_cache": empty_cache,
        "ipc_collect": lambda: None,
        "mem_get_info": lambda device=None: (own.memory - usage(device).reserved, own.memory),
        "memory_allocated": lambda device=None: usage(device).allocated,
        "memory_reserved": lambda device=None: usage(device).reserved,
        "max_memory_allocated": lambda device=None: usage(device).peak,
        "max_memory_reserved": lambda device=None: usage(device).reserved,
        "reset_peak_memory_stats": reset_peak,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }


@contextlib.contextmanager
def _entered(stream: Stream) -> Iterator[Stream]:
    with stream:
        yield stream


def _device_context(own: Machine) -> type:
    class Device:
        """As ``torch.cuda.device``."""

        def __init__(self, device: Any) -> None:
            self._index = own.index_of(device)

        def __enter__(self) -> None:
            self._before, own.device = own.device, self._index

        def __exit__(self, *_: object) -> None:
            own.device = self._before

    return Device


@contextlib.contextmanager
def _kept_flags() -> Iterator[None]:
    """Put torch's switches for CUDA back, whatever is done to them within."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    matmul = [
        name
        for name in (
            "allow_tf32",
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
        )
        if hasattr(cuda.matmul, name)
    ]
    before: list[tuple[Any, str, Any]] = [
        (cuda.matmul, name, getattr(cuda.matmul, name)) for name in matmul
    ]
    before += [(cudnn, name, getattr(cudnn, name)) for name in ("allow_tf32", "benchmark")]
    attention_before = [
        (enable, enabled())
        for enable, enabled in (
            (cuda.enable_flash_sdp, cuda.flash_sdp_enabled),
            (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled),
            (cuda.enable_math_sdp, cuda.math_sdp_enabled),
            (cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled),
        )
    ]
    try:
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
        for enable, value in attention_before:
            enable(value)
