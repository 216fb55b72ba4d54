"""The check for GPUs runs whole on a CPU, and tells what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tools"))

import gpu_check  # noqa: E402
from gpu_steps.goals import GOALS, evaluate  # noqa: E402
from gpu_steps.plan import STEPS  # noqa: E402
from gpu_steps.report import Deadline, OutOfTimeError, Report, Section  # noqa: E402
from gpu_steps.table import table  # noqa: E402

SECONDS = 300  # it takes 20; only a hanging check takes longer
# What a CPU has not got. Every other measurement must be there.
WITHOUT_GPU = {"with_mps": "no CUDA device"}


def check(*options: str, out: Path) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(out), *options]
    path = os.pathsep.join([str(ROOT / "backend"), str(ROOT / "client")])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8")), done.stdout


def test_all_steps_on_a_cpu(tmp_path: Path) -> None:
    report, said = check("--device", "cpu", "--quick", out=tmp_path / "check.json")
    assert list(report["steps"]) == [step.name for step in STEPS]
    for name, step in report["steps"].items():
        assert step["status"] == "done", (name, step)
        assert not step.get("errors"), (name, step["errors"])
        assert not step.get("skipped"), (name, step["skipped"])
        assert step["results"], name
    results = {name: step["results"] for name, step in report["steps"].items()}
    assert results["parity"]["summary"]["off"] == []
    assert results["parity"]["summary"]["outputs"] > 30
    assert results["decode"]["rows_2"]["tokens_per_s"] > 0
    assert results["streams"]["streams_2_1"]["first_ms"]["p50"] > 0
    assert results["streams"]["streams_2_1"]["audio_s"] == pytest.approx(2 * 1.2)
    assert results["streams"]["calls_1_1"][-1][0] == "first audio"
    assert results["decode_graphs"]["float32 = cpu_float32"]["differing"] == {}
    assert results["company"]["float32"]["in_2"]["differing"] == {}
    assert results["flow_graphs"]["company"]["alone_or_together"] < 1e-4
    assert results["profile"]["flow"]["2x64"]["rows"]
    assert results["processes"]["without_mps"]["engine_beside"]["per_second"] > 0
    assert results["processes"]["with_mps"]["refused"] == WITHOUT_GPU["with_mps"]
    assert results["gpu_tests"]["pytest"]["ok"]
    # Tiny networks on a CPU reach no goal, whatever they take.
    assert len(report["goals"]) == len(GOALS)
    assert all(row["met"] is None for row in report["goals"])
    assert "parity: all" in said
    assert "GPT decode, 32 sequences" in said


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--steps", "machine,lunch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 2
    assert "['lunch']; allowed: machine, weights, parity" in done.stderr


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path / "check.json")


def on_disk(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    return content["steps"]["step"]


def test_an_error_is_kept_and_the_others_go_on(report: Report, tmp_path: Path) -> None:
    section = Section(report, "step", Deadline(60))

    def broken() -> None:
        raise ValueError("the reason")

    assert section.attempt("first", broken) is None
    assert section.attempt("second", lambda: {"ms": 1.23456789, "least": float("-inf")}) is not None
    found = on_disk(tmp_path)
    assert "ValueError: the reason" in found["errors"]["first"]
    assert found["results"] == {"second": {"ms": 1.23457, "least": "-inf"}}


def test_what_does_not_fit_any_more_is_skipped(report: Report, tmp_path: Path) -> None:
    section = Section(report, "step", Deadline(5))
    section.attempt("long", lambda: pytest.fail("was called"), needed=60)
    section.attempt("short", lambda: 1.0, needed=1)
    found = on_disk(tmp_path)
    assert "s left" in found["skipped"]["long"]
    assert found["results"] == {"short": 1.0}
    with pytest.raises(OutOfTimeError):
        Deadline(-1).check()


def test_a_dead_process_costs_its_step_alone(report: Report, tmp_path: Path) -> None:
    report.content["steps"] = {"machine": {"status": "done"}, "parity": {"status": "running"}}
    report.save()
    out = tmp_path / "check.json"
    names = ["machine", "parity", "decode"]
    assert gpu_check._after_death(names, -6, True, "Thread 0x1 in decode", out) == ["decode"]
    step = Report(out).content["steps"]["parity"]
    assert step["status"] == "broken"
    assert "hung\nThread 0x1 in decode" in step["errors"]["process"]
    # One that dies before it has begun anything is not started again and again.
    assert gpu_check._after_death(["decode"], 1, False, "ImportError", out) == []
    assert "ImportError" in Report(out).content["failures"][0]


def test_a_hanging_process_is_ended(report: Report, tmp_path: Path) -> None:
    report.content["steps"] = {"parity": {"status": "running"}}
    report.save()
    hang = "import faulthandler, time; faulthandler.enable(); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", hang], stderr=subprocess.PIPE) as process:
        limits = {"parity": 0.5 - gpu_check._GRACE}
        assert gpu_check._watch(process, limits, Deadline(60), tmp_path / "check.json")
        assert process.stderr is not None
        assert b"Current thread" in process.stderr.read()  # where it hung


def test_goals_are_judged_on_a_gpu_at_full_size_only(report: Report) -> None:
    report.content["options"] = {"device": "cuda:0", "quick": False}
    report.content["steps"] = {
        "decode": {
            "results": {
                "rows_1": {"ms_per_token": 0.7, "tokens_per_s": 1400.0},
                "rows_32": {"tokens_per_s": 14000.0},
            }
        },
        "estimator": {"results": {"step_16x1024_plain": {"gemm_share": 0.6}}},
        "streams": {"results": {"streams_8_8": {"first_ms": {"p50": 200.0}}}},
    }
    evaluate(report)
    met = {row["name"]: row["met"] for row in report.content["goals"]}
    assert met["GPT decode, one sequence, with sampling"] is True
    assert met["GPT decode, 32 sequences"] is False  # 10 times
    assert met["DiT, 16 x 1024 frames"] is True
    assert met["first audio p50, 8 streams"] is False
    assert met["first audio p50, 32 streams"] is None  # not measured
    lines = table(report).splitlines()
    assert any(line.startswith("first audio p50, 8") and line.endswith("NO") for line in lines)
    report.content["options"]["quick"] = True
    evaluate(report)
    assert {row["met"] for row in report.content["goals"]} == {None}
