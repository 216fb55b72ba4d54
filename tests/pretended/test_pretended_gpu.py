"""The pretended GPU itself: it computes as the CPU does, and refuses what a real one would."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pretend_cuda import (
    KERNELS_VARIABLE,
    IllegalCapture,
    Machine,
    Misplaced,
    Race,
    Site,
    StaleMemory,
    pretend_cuda,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.pretend

GPU = torch.device("cuda", 0)
HERE = "test_pretended_gpu.py"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with pretend_cuda(memory=1 << 20) as machine:
        yield machine


def whats(machine: Machine) -> list[str]:
    """The kinds of waits so far."""
    return [wait.what for wait in machine.log.waits]


class TestInstallation:
    def test_everything_is_put_back(self) -> None:
        def state() -> list[Any]:
            matmul = torch.backends.cuda.matmul
            return [
                {name: getattr(torch.cuda, name) for name in dir(torch.cuda)},
                threading.Thread.start,
                os.environ.get(KERNELS_VARIABLE),
                torch.__future__.get_overwrite_module_params_on_conversion(),
                matmul.allow_tf32,
                matmul.allow_fp16_reduced_precision_reduction,
                torch.backends.cudnn.allow_tf32,
                torch.backends.cuda.cudnn_sdp_enabled(),
                torch.cuda.is_available(),
            ]

        before = state()

        def fail() -> None:
            torch.backends.cuda.matmul.allow_tf32 = not before[4]
            torch.backends.cudnn.allow_tf32 = not before[6]
            torch.backends.cuda.enable_cudnn_sdp(not before[7])
            assert torch.cuda.is_available()
            assert os.environ[KERNELS_VARIABLE] == "plain"
            raise ValueError("within")

        with pytest.raises(ValueError, match="within"), pretend_cuda():
            fail()
        assert state() == before
        assert torch.zeros(2).tolist() == [0, 0]

    def test_threads_see_the_device_while_it_is_there(self) -> None:
        seen: list[Any] = []

        def look() -> None:
            seen.append(torch.zeros(1, device="cuda").device)

        with pretend_cuda():
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert seen == [GPU]

    def test_a_thread_that_stays_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pretend_cuda.installation.THREAD_END_SECONDS", 0.01)
        end = threading.Event()
        thread = threading.Thread(target=end.wait, name="lingering")
        with pytest.raises(RuntimeError, match="lingering"), pretend_cuda():
            thread.start()
        end.set()
        thread.join()

    def test_one_at_a_time(self, machine: Machine) -> None:
        with pytest.raises(RuntimeError, match="already"), pretend_cuda():
            pass
        assert torch.cuda.is_available()

    def test_what_is_told_of_the_device(self, machine: Machine) -> None:
        assert torch.cuda.device_count() == 2
        assert torch.cuda.get_device_capability() == (9, 0)
        assert torch.cuda.get_device_properties(1).total_memory == 1 << 20
        assert torch.cuda.current_device() == 0
        with torch.cuda.device(1):
            assert torch.zeros(1, device="cuda").device == torch.device("cuda", 1)
            assert torch.cuda.current_stream() == torch.cuda.default_stream(1)
        assert torch.cuda.current_device() == 0
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.cuda.set_device(2)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4)).eval()


COMPUTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (x * 2 + 1).softmax(-1),
    "in place": lambda x: x.clone().mul_(3).add_(x),
    "views": lambda x: x.view(2, 3, 6).transpose(0, 1).reshape(-1, 6)[1:, ::2],
    "indexing": lambda x: x[torch.arange(3, device=x.device), 2],
    "writing": lambda x: x.clone().index_put_((torch.tensor([1], device=x.device),), x[0] * 0),
    "padding": lambda x: nn.utils.rnn.pad_sequence([x[:2], x], batch_first=True),
    "attention": lambda x: functional.scaled_dot_product_attention(*[x.view(1, 1, 6, 6)] * 3),
    "convolution": lambda x: functional.conv1d(x[None], x[:, :, None].expand(6, 6, 3), padding=1),
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.view(6, 3, 2)) ** 2),
    "sorting": lambda x: x.sort(-1, descending=True).values.cumsum(-1),
    "types": lambda x: x.half().float().to(torch.bfloat16).double(),
    "spectrum": lambda x: torch.stft(
        x.flatten(), 8, window=torch.ones(8, device=x.device), return_complex=True
    ).abs(),
    "masks": lambda x: torch.where(x > 0, x, 0.0).masked_fill(x > 1, -1),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference"])
def test_it_computes_as_the_cpu_does(name: str, inference: bool) -> None:
    given = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(inference):
        wanted = COMPUTATIONS[name](given)
        with pretend_cuda() as machine:
            made = COMPUTATIONS[name](given.to(GPU))
            assert made.device == GPU
            assert made.is_cuda
            back = made.cpu()
    assert_close(back, wanted)
    assert machine.log.faults == []


def test_modules_move_and_are_copied(machine: Machine) -> None:
    module, x = layers(), torch.randn(3, 6)
    wanted = module(x)
    moved = copy.deepcopy(module).to(GPU)
    twin = copy.deepcopy(moved)
    assert all(p.device == GPU for p in (*moved.parameters(), *twin.parameters()))
    assert_close(moved(x.to(GPU)).cpu(), wanted)
    assert_close(twin(x.to(GPU)).cpu(), wanted)
    assert_close(moved.cpu()(x), wanted)


class TestPlacement:
    @pytest.mark.parametrize(
        "mix",
        [
            lambda x: x + torch.ones(4),
            lambda x: torch.cat([x, torch.ones(4)]),
            lambda x: x + torch.ones(4, device="cuda:1"),
            lambda x: torch.ones(4)[x.long()],
            lambda x: functional.linear(x, torch.ones(4, 4)),
            lambda x: functional.scaled_dot_product_attention(
                x.view(1, 1, 1, 4), torch.ones(1, 1, 1, 4), x.view(1, 1, 1, 4)
            ),
        ],
        ids=["sum", "cat", "two GPUs", "index", "weights", "attention"],
    )
    def test_devices_do_not_mix(self, machine: Machine, mix: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(Misplaced):
            mix(torch.ones(4, device=GPU))
        assert [type(fault) for fault in machine.log.faults] == [Misplaced]

    def test_single_numbers_do(self, machine: Machine) -> None:
        assert (torch.ones(2, device=GPU) * torch.tensor(3.0)).tolist() == [3, 3]

    def test_no_numpy_of_the_device(self, machine: Machine) -> None:
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            torch.ones(2, device=GPU).numpy()

    def test_work_from_a_thread_that_has_not_chosen_the_device(self, machine: Machine) -> None:
        torch.ones(2, device="cuda:1").add_(1)
        assert machine.wrong_current_device > 0


WAITS: dict[str, Callable[[Tensor], object]] = {
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x[0].item(),
    "__bool__": lambda x: bool(x[0]),
    "__float__": lambda x: float(x[0]),
    "nonzero": lambda x: x.nonzero(),
    "a mask as an index": lambda x: x[x > 0],
    "copy of an index to the device": lambda x: x[[0, 1]],
    "equal": lambda x: torch.equal(x, x),
    "copy to the host": lambda x: x.to("cpu"),
    "copy to the device": lambda x: torch.tensor([1.0], device=x.device),
    "copy between devices": lambda x: x.to("cuda:1"),
    "torch.cuda.synchronize": lambda x: torch.cuda.synchronize(),
    "stream.synchronize": lambda x: torch.cuda.current_stream().synchronize(),
    "event.synchronize": lambda x: torch.cuda.Event().synchronize(),
}


class TestWaits:
    @pytest.mark.parametrize("what", WAITS)
    def test_each_is_counted_where_it_happens(self, machine: Machine, what: str) -> None:
        x = torch.ones(3, device=GPU)
        machine.log.clear()
        WAITS[what](x)
        assert what in whats(machine)
        assert machine.log.sites <= {
            Site(HERE, "test_each_is_counted_where_it_happens"),
            Site(HERE, "<lambda>"),
        }

    @pytest.mark.parametrize("what", WAITS)
    def test_none_is_permitted_in_a_capture(self, machine: Machine, what: str) -> None:
        x = torch.ones(3, device=GPU)
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(IllegalCapture, match="not permitted"), torch.cuda.graph(graph):
            WAITS[what](x)
        assert machine.log.faults

    def test_pinned_copies_are_no_waits(self, machine: Machine) -> None:
        host = torch.arange(4.0).pin_memory()
        back = torch.empty(4, pin_memory=True)
        there = host.to(GPU, non_blocking=True)
        back.copy_(there * 2, non_blocking=True)
        assert whats(machine) == []
        there.to("cpu", non_blocking=True)
        assert whats(machine) == []
        host.to(GPU)
        torch.arange(4.0).to(GPU, non_blocking=True)  # from memory that isn't pinned
        torch.empty(4).copy_(there, non_blocking=True)
        assert machine.log.waits.total() == 3

    def test_what_is_loaded_may_wait(self) -> None:
        def load() -> Tensor:
            return torch.ones(3).to(GPU)

        with pretend_cuda(loading={Site(HERE, "load")}) as machine:
            load()
            assert machine.log.sites == set()
            assert machine.log.loaded == {Site(HERE, "load")}


class TestPinnedMemory:
    def test_a_copy_is_there_once_it_was_waited_for(self, machine: Machine) -> None:
        values = torch.tensor([1, 2, 3], device=GPU)
        host = torch.zeros(3, dtype=torch.int64, pin_memory=True)
        seen = host.numpy()
        host.copy_(values, non_blocking=True)
        values.zero_()  # later in the stream
        event = torch.cuda.Event()
        event.record()
        assert 1 not in seen, "not even numpy sees it early"
        event.synchronize()
        assert host.tolist() == seen.tolist() == [1, 2, 3]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32])
    def test_reading_too_early(self, machine: Machine, dtype: torch.dtype) -> None:
        host = torch.zeros(4, dtype=dtype, pin_memory=True)
        early = torch.cuda.Event()
        early.record()
        host[:2].copy_(torch.ones(2, dtype=dtype, device=GPU), non_blocking=True)
        early.synchronize()
        reads: list[Callable[[], object]] = [host.tolist, host.numpy, lambda: host + 1]
        for read in reads:
            with pytest.raises(Race, match="still writes"):
                read()
        assert (host[2:] == 0).all(), "the rest may be read"
        torch.cuda.current_stream().synchronize()
        assert host.tolist() == [1, 1, 0, 0]

    def test_a_source_that_changes_too_early(self, machine: Machine) -> None:
        host = torch.ones(3).pin_memory()
        host.to(GPU, non_blocking=True)
        host.numpy()[1] = 5
        with pytest.raises(Race, match="was changed"):
            torch.cuda.synchronize()

    def test_a_source_may_change_afterwards_or_go(self, machine: Machine) -> None:
        host = torch.ones(3).pin_memory()
        there = host.to(GPU, non_blocking=True)
        torch.ones(3).pin_memory().to(GPU, non_blocking=True)
        torch.cuda.synchronize()
        host.zero_()
        assert there.tolist() == [1, 1, 1]
        assert machine.log.faults == []


def captured(call: Callable[[], Tensor], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        made = call()
    return graph, made


class TestGraphs:
    def test_a_replay_computes_with_what_is_there(self, machine: Machine) -> None:
        x = torch.zeros(3, device=GPU)
        graph, made = captured(lambda: (x * 2).cumsum(0))
        for number in (1.0, 2.0):
            x.fill_(number)
            graph.replay()
            assert made.tolist() == [2 * number, 4 * number, 6 * number]
        assert (machine.log.captures, machine.log.replays) == (1, 2)

    def test_a_capture_computes_nothing(self, machine: Machine) -> None:
        count = torch.zeros(1, dtype=torch.int64, device=GPU)
        graph, _ = captured(lambda: count.add_(1))
        assert count.tolist() == [0]
        graph.replay()
        graph.replay()
        assert count.tolist() == [2]

    def test_its_result_is_not_there_before_the_first_replay(self, machine: Machine) -> None:
        graph, made = captured(lambda: torch.ones(2, device=GPU) * 2)
        with pytest.raises(StaleMemory, match="not been replayed"):
            made.tolist()
        graph.replay()
        assert made.tolist() == [2, 2]

    def test_graphs_of_a_pool_write_over_each_other(self, machine: Machine) -> None:
        x = torch.ones(3, device=GPU)
        first, one = captured(lambda: x * 2)
        second, other = captured(lambda: x * 3, pool=first.pool())
        third, apart = captured(lambda: x * 4)
        for graph in (third, first, second):
            graph.replay()
        assert other.tolist() == [3, 3, 3]
        assert apart.tolist() == [4, 4, 4], "another pool"
        with pytest.raises(StaleMemory, match="another graph of its pool"):
            one + 1
        assert one.leased.isnan().all(), "whoever reads it on another way gets NaN"  # type: ignore[attr-defined]
        first.replay()
        assert one.tolist() == [2, 2, 2]

    def test_memory_that_a_graph_reads_must_stay(self, machine: Machine) -> None:
        read = [torch.ones(3, device=GPU)]
        graph, _made = captured(lambda: read[0] * 2)
        graph.replay()
        read.clear()
        with pytest.raises(StaleMemory, match="freed"):
            graph.replay()

    def test_pinned_copies_in_a_capture_happen_at_each_replay(self, machine: Machine) -> None:
        up, down = torch.ones(2).pin_memory(), torch.zeros(2, pin_memory=True)
        x = torch.zeros(2, device=GPU)

        def step() -> Tensor:
            x.copy_(up, non_blocking=True)
            return down.copy_(x * 2, non_blocking=True)

        graph, _ = captured(step)
        for number in (1, 5):
            up.fill_(number)
            graph.replay()
            with pytest.raises(Race):
                down.tolist()
            torch.cuda.synchronize()
            assert down.tolist() == [2 * number, 2 * number]

    def test_captures_on_streams_of_their_own(self, machine: Machine) -> None:
        x, pool = torch.ones(2, device=GPU), torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(priority=-1)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="relaxed")
            assert torch.cuda.is_current_stream_capturing()
            made = x + 1
            graph.capture_end()
        assert graph.pool() == pool
        graph.replay()
        assert made.tolist() == [2, 2]
        assert "torch.cuda.graph" not in whats(machine), "no wait for the whole device"
        graph.reset()
        with pytest.raises(RuntimeError, match="not been captured"):
            graph.replay()

    def test_not_on_the_default_stream(self, machine: Machine) -> None:
        with pytest.raises(IllegalCapture, match="default"):
            torch.cuda.CUDAGraph().capture_begin()

    def test_one_capture_at_a_time(self, machine: Machine) -> None:
        refused: list[BaseException] = []

        def other() -> None:
            with torch.cuda.stream(torch.cuda.Stream()):
                try:
                    torch.cuda.CUDAGraph().capture_begin()
                except IllegalCapture as error:
                    refused.append(error)

        def step() -> Tensor:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return torch.ones(2, device=GPU)

        captured(step)
        assert "another capture is under way" in str(refused)

    def test_forked_streams_are_captured_and_must_join(self, machine: Machine) -> None:
        x, side = torch.ones(2, device=GPU), torch.cuda.Stream()

        def step(join: bool) -> Tensor:
            main = torch.cuda.current_stream()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                made = x * 7
            if join:
                main.wait_stream(side)
            return made

        graph, made = captured(lambda: step(join=True))
        graph.replay()
        assert made.tolist() == [7, 7]
        with pytest.raises(IllegalCapture, match="not joined"):
            captured(lambda: step(join=False))


class TestStreams:
    def test_use_without_order_is_a_race(self, machine: Machine) -> None:
        side = torch.cuda.Stream()
        x = torch.ones(2, device=GPU)
        with torch.cuda.stream(side), pytest.raises(Race, match="may still write"):
            x + 1
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x + 1
        with pytest.raises(Race, match="may still read"):
            x.zero_()

    @pytest.mark.parametrize("way", ["stream", "event", "host"])
    def test_order_by(self, machine: Machine, way: str) -> None:
        side, event = torch.cuda.Stream(), torch.cuda.Event()
        x = torch.ones(2, device=GPU)
        event.record()
        if way == "stream":
            side.wait_stream(torch.cuda.current_stream())
        elif way == "event":
            side.wait_event(event)
        else:
            event.synchronize()
        with torch.cuda.stream(side):
            made = x + 1
            back = side.record_event()
        back.wait()
        assert made.tolist() == [2, 2]
        assert machine.log.faults == []

    def test_freed_memory_that_another_stream_uses(self, machine: Machine) -> None:
        side = torch.cuda.Stream()
        for recorded in (True, False):
            x = torch.ones(2, device=GPU)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                kept = x + 1
            if recorded:
                x.record_stream(side)
            del x
            assert bool(machine.log.faults) is not recorded
            torch.cuda.current_stream().wait_stream(side)
            assert kept.shape == (2,)

    def test_events_tell_time(self, machine: Machine) -> None:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        last.record()
        with pytest.raises(RuntimeError, match="not ready"):
            first.elapsed_time(last)
        assert not last.query(), "a device takes its time"
        assert last.query()
        assert first.elapsed_time(last) >= 0


class TestMemory:
    def test_it_is_counted_and_comes_back(self, machine: Machine) -> None:
        x = torch.zeros(100, device=GPU)
        view = x[10:]
        assert torch.cuda.memory_allocated() == 400
        del x
        assert torch.cuda.memory_allocated() == 400, "a view holds all of it"
        assert torch.cuda.mem_get_info() == ((1 << 20) - 400, 1 << 20)
        del view
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.memory_reserved() == torch.cuda.max_memory_allocated() == 400
        torch.cuda.empty_cache()
        assert torch.cuda.mem_get_info(0) == (1 << 20, 1 << 20)

    def test_it_ends(self, machine: Machine) -> None:
        kept = torch.zeros(200_000, device=GPU)
        with pytest.raises(torch.OutOfMemoryError, match="800000 of 1048576 are allocated"):
            torch.zeros(200_000, device=GPU)
        assert torch.cuda.memory_allocated() == kept.nbytes

    def test_uninitialised_memory_is_poisoned(self, machine: Machine) -> None:
        assert np.isnan(torch.empty(3, device=GPU).tolist()).all()
        assert torch.empty(2, dtype=torch.int16, device=GPU).tolist() == [-(2**15)] * 2
