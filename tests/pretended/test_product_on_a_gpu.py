"""The whole product on a pretended GPU: right, in order, and waiting where it may only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pretended.runs import TOKENS, VOICES, Reference, Run, run_on_cpu, run_pretended
from pretended.waiting import unlisted, unneeded

pytestmark = pytest.mark.pretend

# What each stage makes of the same inputs, but for tokens.
STAGES = ("BERT_FEATURES", "REFERENCE_SPECTRUM", "REFERENCE_MEL", "MEL", "AUDIO")
# A GPU's kernels, which a CPU has not, round in other places: what that may change in an answer.
TOLERANCES = {"float32": 1e-4, "bfloat16": 4e-2, "float16": 5e-3}
# The last GPU of two: whatever isn't told where to go lands on the first.
DEVICES = {"float32": "cuda:0", "bfloat16": "cuda:1", "float16": "cuda:0"}


@pytest.fixture(scope="module", params=list(TOLERANCES))
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(repository: Path, dtype: str) -> Run:
    return run_pretended(repository, dtype, DEVICES[dtype])


@pytest.fixture(scope="module")
def cpu(repository: Path, dtype: str, run: Run) -> Reference:
    on_cpu = "float32" if dtype == "float16" else dtype  # which a CPU refuses
    return run_on_cpu(repository, on_cpu, run.tensors)


def assert_near(one: NDArray[Any], other: NDArray[Any], dtype: str, scale: float = 1.0) -> None:
    assert one.shape == other.shape
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, atol=TOLERANCES[dtype] * scale, rtol=0)


def test_answers_equal_the_cpu(run: Run, cpu: Reference, dtype: str) -> None:
    for voice in VOICES:
        assert np.abs(run.alone[voice]).max() > 0.02, "a silent answer proves nothing"
        assert_near(run.alone[voice], run.tensors[voice]["AUDIO"], dtype)
        if dtype == "float32":
            assert_near(run.alone[voice], cpu.alone[voice], dtype)


@pytest.mark.parametrize("name", STAGES)
def test_stages_equal_the_cpu(run: Run, cpu: Reference, dtype: str, name: str) -> None:
    for voice in VOICES:
        ours, theirs = run.tensors[voice][name], cpu.tensors[voice][name]
        assert_near(ours, theirs, dtype, scale=float(np.abs(theirs).max()))


def test_tokens_equal_the_cpu(run: Run, cpu: Reference, dtype: str) -> None:
    same = 0
    for voice in VOICES:
        ours, theirs = run.tensors[voice]["TOKENS"], cpu.tensors[voice]["TOKENS"]
        length = min(len(ours), len(theirs))
        different = np.flatnonzero(ours[:length] != theirs[:length])
        same += int(different[0]) if len(different) else length
        if dtype == "float32":
            np.testing.assert_array_equal(ours, theirs)
    assert same >= 0.3 * TOKENS * len(VOICES), "tokens fall otherwise from the beginning"


def test_words_are_timed_as_on_the_cpu(run: Run, cpu: Reference, dtype: str) -> None:
    for voice in VOICES:
        ours, theirs = run.times[voice], cpu.times[voice]
        assert [word["word"] for word in ours] == ["Hello", "你", "好"]
        if dtype == "float32":
            assert ours == theirs


def test_voices_differ(run: Run) -> None:
    for one, other in (("plain", "tuned"), ("plain", "full"), ("tuned", "full")):
        length = min(len(run.alone[one]), len(run.alone[other]))
        assert np.abs(run.alone[one][:length] - run.alone[other][:length]).max() > 1e-2


def test_company_changes_nothing(run: Run, dtype: str) -> None:
    for voice in VOICES:
        assert np.isfinite(run.together[voice]).all()
        if dtype == "float32":
            assert_near(run.together[voice], run.alone[voice], dtype)


def test_streams(run: Run, dtype: str) -> None:
    for voice in VOICES:
        assert_near(run.sentences[voice], run.alone[voice], dtype)
        chunks = run.chunks[voice]
        assert len(chunks) > 1
        assert all(np.isfinite(chunk).all() for chunk in chunks)
        # Chunks hear less of the sentence than the whole does: alike, not equal.
        assert abs(sum(map(len, chunks)) - len(run.alone[voice])) <= 480


def test_nothing_is_misplaced_or_out_of_order(run: Run) -> None:
    assert run.log.faults == []


def test_graphs_are_captured_in_warm_up_and_replayed(run: Run) -> None:
    before, after = run.captures
    assert before > 0
    assert after > before, "the voice with a GPT of its own has graphs as well"
    assert run.log.replays > TOKENS


def test_only_the_given_gpu_is_used(run: Run, dtype: str) -> None:
    assert run.wrong_current_device == 0, "gsv.device.prepare is due in every thread"
    used = [index for index, peak in enumerate(run.peaks) if peak]
    assert [f"cuda:{index}" for index in used] == [DEVICES[dtype]]


def test_memory_comes_back(run: Run) -> None:
    assert run.left == 0


def test_waits_are_listed(run: Run) -> None:
    assert unlisted(run.log) == [], "waits that tests/pretended/waiting.py does not allow"


def test_the_list_of_waits_is_as_short_as_it_can_be(run: Run) -> None:
    assert unneeded(run.log) == [], "entries of tests/pretended/waiting.py that can go"
