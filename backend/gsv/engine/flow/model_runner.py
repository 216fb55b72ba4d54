"""Tensors of the flow's requests: what each keeps between its steps, and one Euler step of a
batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gsv.device import upload
from gsv.engine.flow.graphed_estimator import (
    EstimatorInputs,
    GraphedEmbedding,
    GraphedEstimator,
)
from gsv.engine.flow.request import FlowRequest, FlowTask
from gsv.engine.transfers import Download
from gsv.models.adapters import Adapter, BatchAdapters, gather
from gsv.models.flow import FlowMatching

# A row of a schedule is some half a megabyte at full size.
_SCHEDULE_ROWS = 256


@dataclass
class SolverState:
    """What one request keeps while it is in work."""

    noisy: Tensor  # float32 [T, mel], zero in the prompt; a view into its batch while it has one
    inputs: Tensor  # [T, D]
    schedule: Tensor  # [steps, M]


class FlowRunner:
    """Runs the estimators of one device. On a GPU nothing here waits for it.

    Args:
        flows: estimators by name, all on one device.
        round_to: lengths of batches are rounded up to a multiple; 1 is best on a CPU, more keeps
            the number of different shapes small.
    """

    def __init__(self, flows: dict[str, FlowMatching], round_to: int = 1) -> None:
        self.flows = flows
        self.adapters: dict[str, Adapter] = {}
        self.round_to = round_to
        self._states: dict[FlowTask, SolverState] = {}
        self._estimators: dict[str, GraphedEstimator] = {}
        self._schedules: OrderedDict[tuple[str, int], Tensor] = OrderedDict()
        self._batch: Batch | None = None
        self._embedding: GraphedEmbedding | None = None  # of the first estimator

    def warm_up(self) -> None:
        """Capture the first estimator's graphs; those of voices that come later run without."""
        self.estimator("").capture_all()
        self._embedding = GraphedEmbedding(self.flows[""])
        self._embedding.capture_all()

    def admit(self, task: FlowTask) -> None:
        """Compute what stays the same over the request's steps, and where it starts."""
        request = task.request
        device = self.flows[request.model].device
        condition, prompt = (_on(part, device) for part in (request.condition, request.prompt))
        noise = _on(request.initial_noise(), device)
        self._states[task] = SolverState(
            noisy=functional.pad(noise, (0, 0, request.prompt_frames, 0)),
            inputs=self._embed(request.model, condition, prompt),
            schedule=self._schedule(request),
        )

    def _embed(self, model: str, condition: Tensor, prompt: Tensor) -> Tensor:
        if model == "" and self._embedding is not None:
            return self._embedding(condition, prompt)
        return self.flows[model].embed(condition[None], prompt[None])[0]

    def step(self, tasks: Sequence[FlowTask]) -> None:
        """Take one Euler step of every run; they must name the same model."""
        if self._batch is None or self._batch.tasks != list(tasks):
            self._leave_batch()
            self._batch = self._assemble(tasks)
        batch, count = self._batch, len(tasks)
        given = batch.given
        modulation = given.modulation[:count]
        torch.stack([self._states[r].schedule[r.step] for r in tasks], out=modulation)
        velocity = self.estimator(tasks[0].request.model)(
            given.noisy, given.inputs, given.modulation, given.lengths, batch.adapters
        )
        given.noisy[:count].addcmul_(velocity[:count], batch.step_sizes)

    def result(self, task: FlowTask) -> Download:
        """The new frames [mel, T - P] of a request that has taken all its steps, on their way."""
        noisy = self._states[task].noisy
        return Download(noisy[task.request.prompt_frames :].mT.contiguous())

    def release(self, task: FlowTask) -> None:
        """Forget a request."""
        if self._batch is not None and task in self._batch.tasks:
            self._leave_batch()
        self._states.pop(task, None)

    def estimator(self, name: str) -> GraphedEstimator:
        """What calls the estimator of that name."""
        if name not in self._estimators:
            self._estimators[name] = GraphedEstimator(self.flows[name].estimator)
        return self._estimators[name]

    def forget_model(self, name: str) -> None:
        """Drop what was computed for an estimator that is gone."""
        self._estimators.pop(name, None)
        for key in list(self._schedules):
            if key[0] == name:
                self._schedules.pop(key, None)

    def _schedule(self, request: FlowRequest) -> Tensor:
        key = (request.model, request.steps)
        if key not in self._schedules:
            self._schedules[key] = self.flows[request.model].schedule(request.steps)
            while len(self._schedules) > 1 and _rows(self._schedules) > _SCHEDULE_ROWS:
                self._schedules.popitem(last=False)
        self._schedules.move_to_end(key)
        return self._schedules[key]

    def _assemble(self, tasks: Sequence[FlowTask]) -> Batch:
        """Put the tensors of ``runs`` into one batch, and let the runs look into it."""
        states = [self._states[task] for task in tasks]
        lengths = [task.request.frames for task in tasks]
        adapters = self._adapters(tasks)
        given, bucket = self._room(tasks, max(lengths), graphed=adapters is None)
        for row, (solution, length) in enumerate(zip(states, lengths, strict=True)):
            _fill(given.noisy[row], solution.noisy)
            _fill(given.inputs[row], solution.inputs)
            solution.noisy = given.noisy[row, :length]
        rows, frames, _ = given.noisy.shape
        if given.lengths is not None:
            # Surplus rows have one frame, of what was there before.
            padded = np.array(lengths + [1] * (rows - len(tasks)), np.int32)
            given.lengths.copy_(upload(padded, given.lengths.device))
        elif any(length != frames for length in lengths):
            given = EstimatorInputs(
                given.noisy, given.inputs, given.modulation, torch.tensor(lengths)
            )
        step_sizes = np.zeros((len(tasks), frames, 1), np.float32)
        for row, task in enumerate(tasks):
            step_sizes[row, task.request.prompt_frames : task.request.frames] = (
                1.0 / task.request.steps
            )
        return Batch(
            tasks=list(tasks),
            given=given,
            step_sizes=upload(step_sizes, given.noisy.device),
            adapters=adapters,
            shared=bucket is not None,
        )

    def _room(
        self, tasks: Sequence[FlowTask], longest: int, *, graphed: bool
    ) -> tuple[EstimatorInputs, tuple[int, int] | None]:
        """Tensors for a batch: those of a graph with its bucket, or new ones.

        New ones have lengths on a GPU only, where all batches have them.
        """
        estimator = self.estimator(tasks[0].request.model)
        frames = -(-longest // self.round_to) * self.round_to
        bucket = estimator.bucket(len(tasks), frames) if graphed else None
        if bucket is not None:
            return estimator.inputs_of(bucket), bucket
        first, rows = self._states[tasks[0]], len(tasks)
        device = first.noisy.device
        given = EstimatorInputs(
            noisy=first.noisy.new_empty(rows, frames, first.noisy.shape[-1]),
            inputs=first.inputs.new_empty(rows, frames, first.inputs.shape[-1]),
            modulation=first.schedule.new_empty(rows, first.schedule.shape[-1]),
            lengths=(
                torch.empty(rows, dtype=torch.int32, device=device)
                if device.type == "cuda"
                else None
            ),
        )
        return given, None

    def _leave_batch(self) -> None:
        """Let the runs of the present batch keep what they have, before others take its place."""
        batch, self._batch = self._batch, None
        if batch is None or not batch.shared:
            return  # they keep their views of its tensors
        kept = batch.given.noisy.clone()
        for row, task in enumerate(batch.tasks):
            if task in self._states:
                self._states[task].noisy = kept[row, : task.request.frames]

    def _adapters(self, rows: Sequence[FlowTask]) -> BatchAdapters | None:
        """The rows' low-rank changes; gathered once for all steps of a batch."""
        estimator = self.flows[rows[0].request.model].estimator
        chosen = [self.adapters[r.request.adapter] if r.request.adapter else None for r in rows]
        return gather(chosen, estimator.inverse_frequencies)


@dataclass
class Batch:
    """Rows that step together; kept as long as the same runs do."""

    tasks: list[FlowTask]
    given: EstimatorInputs  # of the runs and then of surplus rows; ``noisy`` is changed in place
    step_sizes: Tensor  # [runs, T, 1]: 1 / steps in the new frames, 0 in prompt and padding
    adapters: BatchAdapters | None  # of the runs, None when none has one
    shared: bool  # whether other batches use the same memory


def _on(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; the way from the CPU to a GPU is only queued."""
    if values.device == device:
        return values
    if values.device.type == "cpu":
        return upload(values.contiguous().numpy(), device)
    return values.to(device)


def _fill(target: Tensor, values: Tensor) -> None:
    """Write ``values`` [T, C] to ``target``, and zeros where it is longer."""
    target[: len(values)] = values
    target[len(values) :] = 0


def _rows(schedules: OrderedDict[tuple[str, int], Tensor]) -> int:
    return sum(len(schedule) for schedule in schedules.values())
