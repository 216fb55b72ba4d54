"""Tensors of the flow's jobs: what each keeps between its steps, and one Euler step of a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gsv.engine.flow_graphs import GraphedEstimator
from gsv.engine.flow_job import FlowJob, FlowRun
from gsv.errors import GsvError
from gsv.models.adapters import Adapter, BatchAdapters, gather
from gsv.models.flow import FlowMatching, guided

# A row of a schedule is some half a megabyte at full size.
_SCHEDULE_ROWS = 256


@dataclass
class Solution:
    """What one job keeps while it is in work."""

    noisy: Tensor  # float32 [T, mel], zero in the prompt; a view into its batch while it has one
    inputs: Tensor  # [rows, T, D]: with the condition, and without it if the job is guided
    schedule: Tensor  # [steps, M]


class FlowRunner:
    """Runs the estimators of one device.

    Args:
        flows: estimators by name, all on one device.
        round_to: lengths of batches are rounded up to a multiple; 1 is best on a CPU, more keeps
            the number of different shapes small.
    """

    def __init__(self, flows: dict[str, FlowMatching], round_to: int = 1) -> None:
        self.flows = flows
        self.adapters: dict[str, Adapter] = {}
        self.round_to = round_to
        self._solutions: dict[FlowRun, Solution] = {}
        self._estimators: dict[str, GraphedEstimator] = {}
        self._schedules: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._batch: Batch | None = None

    def admit(self, run: FlowRun) -> None:
        """Compute what stays the same over the job's steps, and where it starts."""
        job, flow = run.job, self.flows[run.job.model]
        device = flow.device
        condition, prompt = job.condition.to(device)[None], job.prompt.to(device)[None]
        inputs = [flow.embed(condition, prompt)]
        if job.guided:
            inputs.append(flow.embed_unguided(condition, prompt))
        noise = job.initial_noise().to(device)
        self._solutions[run] = Solution(
            noisy=functional.pad(noise, (0, 0, job.prompt_frames, 0)),
            inputs=torch.cat(inputs),
            schedule=self._schedule(job),
        )

    def step(self, runs: Sequence[FlowRun]) -> None:
        """Take one Euler step of every run; they must name the same model."""
        if self._batch is None or self._batch.runs != list(runs):
            self._batch = self._assemble(runs)
        batch = self._batch
        modulation = torch.stack([self._solutions[r].schedule[r.step] for r in runs])
        velocity = self._estimator(runs[0].job.model)(
            batch.estimator_rows(batch.noisy),
            batch.inputs,
            batch.estimator_rows(modulation),
            batch.lengths,
            batch.adapters,
        )
        batch.advance(velocity)

    def result(self, run: FlowRun) -> Tensor:
        """The new frames [mel, T - P] of a job whose steps are all taken."""
        mel = self._solutions[run].noisy[run.job.prompt_frames :].mT.contiguous()
        if not torch.isfinite(mel).all():
            raise GsvError("the flow's frames are not finite; try dtype bfloat16 or float32")
        return mel

    def release(self, run: FlowRun) -> None:
        """Forget a job."""
        self._solutions.pop(run, None)
        if self._batch is not None and run in self._batch.runs:
            self._batch = None  # the others keep their views of its tensors

    def _estimator(self, name: str) -> GraphedEstimator:
        if name not in self._estimators:
            flow = self.flows[name]
            disable = flow.device.type != "cuda"
            self._estimators[name] = GraphedEstimator(flow.estimator, disable)
        return self._estimators[name]

    def forget_model(self, name: str) -> None:
        """Drop what was computed for an estimator that is gone."""
        self._estimators.pop(name, None)
        for key in list(self._schedules):
            if key[0] == name:
                self._schedules.pop(key, None)

    def _schedule(self, job: FlowJob) -> Tensor:
        key = (job.model, job.steps)
        if key not in self._schedules:
            self._schedules[key] = self.flows[job.model].schedule(job.steps)
            while len(self._schedules) > 1 and _rows(self._schedules) > _SCHEDULE_ROWS:
                self._schedules.popitem(last=False)
        self._schedules.move_to_end(key)
        return self._schedules[key]

    def _assemble(self, runs: Sequence[FlowRun]) -> Batch:
        """Put the tensors of ``runs`` into one batch, and let the runs look into it."""
        solutions = [self._solutions[run] for run in runs]
        lengths = [run.job.frames for run in runs]
        frames = -(-max(lengths) // self.round_to) * self.round_to
        paired = [index for index, run in enumerate(runs) if run.job.guided]
        noisy = torch.stack([_padded(s.noisy, frames) for s in solutions])
        for row, (solution, length) in enumerate(zip(solutions, lengths, strict=True)):
            solution.noisy = noisy[row, :length]
        rows = [s.inputs[0] for s in solutions] + [solutions[index].inputs[1] for index in paired]
        all_lengths = lengths + [lengths[index] for index in paired]
        ragged = any(length != frames for length in all_lengths)
        device = noisy.device
        step_sizes = torch.zeros(len(runs), frames, 1)
        for row, run in enumerate(runs):
            step_sizes[row, run.job.prompt_frames : run.job.frames] = 1.0 / run.job.steps
        return Batch(
            runs=list(runs),
            noisy=noisy,
            inputs=torch.stack([_padded(row, frames) for row in rows]),
            step_sizes=step_sizes.to(device),
            lengths=torch.tensor(all_lengths, device=device) if ragged else None,
            paired=paired,
            adapters=self._adapters([*runs, *(runs[index] for index in paired)]),
        )

    def _adapters(self, rows: Sequence[FlowRun]) -> BatchAdapters | None:
        """The rows' low-rank changes; gathered once for all steps of a batch."""
        estimator = self.flows[rows[0].job.model].estimator
        chosen = [self.adapters[r.job.adapter] if r.job.adapter else None for r in rows]
        return gather(chosen, estimator.inverse_frequencies)


@dataclass
class Batch:
    """Rows that step together; kept as long as the same runs do."""

    runs: list[FlowRun]
    noisy: Tensor  # [runs, T, mel], changed in place
    inputs: Tensor  # [runs + guided ones, T, D]
    step_sizes: Tensor  # [runs, T, 1]: 1 / steps in the new frames, 0 in prompt and padding
    lengths: Tensor | None  # [runs + guided ones], None when all rows are full
    paired: list[int]  # rows that have an unguided twin, in the twins' order
    adapters: BatchAdapters | None  # of [runs + guided ones], None when no row has one

    def estimator_rows(self, values: Tensor) -> Tensor:
        """``values`` [runs, …] with the guided ones' rows once more at the end."""
        return torch.cat([values, values[self.paired]]) if self.paired else values

    def advance(self, velocity: Tensor) -> None:
        """One Euler step along ``velocity`` [runs + guided ones, T, mel]."""
        count = len(self.runs)
        for twin, row in enumerate(self.paired, start=count):
            rate = self.runs[row].job.guidance
            velocity[row] = guided(velocity[row], velocity[twin], rate)
        self.noisy.addcmul_(velocity[:count], self.step_sizes)


def _padded(values: Tensor, frames: int) -> Tensor:
    """``values`` [T, C] with zero rows up to ``frames``."""
    return functional.pad(values, (0, 0, 0, frames - values.shape[0]))


def _rows(schedules: OrderedDict[tuple[str, int], Tensor]) -> int:
    return sum(len(schedule) for schedule in schedules.values())
