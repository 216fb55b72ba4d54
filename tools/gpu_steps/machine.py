"""The machine: versions, memory, and the rates that other steps are measured against."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import torch
from torch.nn import functional

from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup
from gpu_steps.timing import MILLI, call_seconds, memory, steady, wait

_PACKAGES = ("numpy", "transformers", "triton", "safetensors", "soundfile", "soxr", "click")
_LAUNCHES = 400


def run(setup: Setup, section: Section, report: Report) -> None:
    """Versions into ``machine`` of the report, rates into the step's results."""
    report.content["machine"] |= describe(setup)
    report.save()
    dtypes = ("bfloat16", "float16", "float32") if setup.on_gpu else ("float32",)
    for name in dtypes:
        section.attempt(f"gemm_{name}", lambda name=name: gemm(setup, getattr(torch, name)))
    section.attempt("copy", lambda: copies(setup))
    section.attempt("launches", lambda: launches(setup))
    section.attempt("round_trip_us", lambda: round_trip(setup))
    section.attempt("memory", lambda: memory(setup.device))


def describe(setup: Setup) -> dict[str, Any]:
    """What the figures were taken on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "kernel": platform.release(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": setup.device,
        "device_name": "cpu",
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if setup.on_gpu:
        properties = torch.cuda.get_device_properties(setup.device)
        found |= {
            "device_name": properties.name,
            "capability": list(torch.cuda.get_device_capability(setup.device)),
            "multiprocessors": properties.multi_processor_count,
            "memory_mib": properties.total_memory / 2**20,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "smi": smi("name,driver_version,compute_mode,mig.mode.current,clocks.sm,power.draw"),
        }
    return found


def smi(query: str) -> str:
    """A line of ``nvidia-smi``, or why there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no nvidia-smi"
    command = [program, f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "nvidia-smi did not answer"
    return (done.stdout or done.stderr).strip()


def gemm(setup: Setup, dtype: torch.dtype) -> dict[str, float]:
    """Operations per second of one large matrix product; large enough for a GPU."""
    size = setup.pick(8192, 512)
    values = torch.randn(size, size, device=setup.device).to(dtype)
    weight = torch.randn(size, size, device=setup.device).to(dtype)
    found = steady(lambda: functional.linear(values, weight), setup.device, setup.pick(10, 3))
    rate = 2 * size**3 / (min(found["best_ms"], found["queued_ms"]) / MILLI)
    return found | {"size": size, "tera_per_s": rate / 1e12}


def copies(setup: Setup) -> dict[str, float]:
    """Bytes read and written per second by a copy on the device."""
    source = torch.ones(setup.pick(2**30, 2**22), dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    found = steady(lambda: target.copy_(source), setup.device, 10)
    return found | {"giga_per_s": 2 * source.numel() / (found["queued_ms"] / MILLI) / 1e9}


def launches(setup: Setup) -> dict[str, float]:
    """Microseconds a tiny kernel: started one by one, and inside a graph."""
    value = torch.zeros(32, device=setup.device)

    def many() -> None:
        for _ in range(_LAUNCHES):
            value.add_(1.0)

    many()
    wait(setup.device)
    started = time.perf_counter()
    many()
    launched = time.perf_counter() - started
    wait(setup.device)
    found = {
        "launch_us": 1e6 * launched / _LAUNCHES,
        "eager_us": 1e6 * call_seconds(many, setup.device) / _LAUNCHES,
    }
    if setup.on_gpu:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many()
        graph.replay()
        found["graph_us"] = 1e6 * call_seconds(graph.replay, setup.device) / _LAUNCHES
    return found


def round_trip(setup: Setup) -> float:
    """Microseconds from starting a kernel to reading its number."""
    value = torch.zeros(1, device=setup.device)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        value.add_(1.0).item()
        times.append(time.perf_counter() - started)
    return 1e6 * sorted(times)[len(times) // 2]


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        return platform.processor()
    return names[0] if names else platform.processor()
