"""When kernels in Triton's language are used."""

import pytest
import torch

from gsv.engine.kernels.cuda import available


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with triton and an H100."""
    monkeypatch.delenv("GSV_KERNELS", raising=False)
    monkeypatch.setattr(available, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def test_a_gpu_of_capability_8_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available.triton_serves(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not available.triton_serves(torch.device("cuda:0"))


def test_a_cpu_is_not_served() -> None:
    assert not available.triton_serves(torch.device("cpu"))


def test_without_the_package_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "_has_triton", lambda: False)
    assert not available.triton_serves(torch.device("cuda:0"))


def test_the_variable_turns_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSV_KERNELS", "plain")
    assert not available.triton_serves(torch.device("cuda:0"))
