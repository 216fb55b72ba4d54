"""Who takes the next Euler step, without any network."""

from __future__ import annotations

import math

import pytest
import torch

from gsv.engine.flow.request import FlowRequest, FlowTask
from gsv.engine.flow.scheduler import FlowScheduler
from gsv.engine.turns import Turn
from gsv.errors import Overloaded


def run_of(
    frames: int,
    steps: int = 4,
    model: str = "",
    *,
    urgent: bool = False,
    buffered: float = math.inf,
    owner: str = "",
) -> FlowTask:
    condition, prompt = torch.zeros(2, frames), torch.zeros(3, 0)
    turn = Turn(owner, first_audio=urgent, buffered=buffered)
    request = FlowRequest(condition, prompt, steps, model=model, turn=turn)
    return FlowTask(request, lambda mel: None, lambda error: None)


def scheduler(*tasks: FlowTask, slots: int = 8, batch_frames: int = 1000) -> FlowScheduler:
    made = FlowScheduler(slots, waiting_limit=8, batch_frames=batch_frames)
    for task in tasks:
        made.add(task)
    made.admit()
    return made


def finish(made: FlowScheduler) -> list[FlowTask]:
    """Step until nothing is left; the runs in the order in which they ended."""
    ended = []
    while batch := made.select():
        made.advance(batch)
        for task in [task for task in batch if task.finished]:
            made.remove(task)
            ended.append(task)
        made.admit()
    return ended


def test_jobs_of_one_length_step_together() -> None:
    tasks = [run_of(200, steps) for steps in (4, 8, 2)]
    assert set(scheduler(*tasks).select()) == set(tasks)


def test_a_batch_keeps_to_its_frames() -> None:
    tasks = [run_of(300) for _ in range(5)]
    assert len(scheduler(*tasks).select()) == 3


def test_a_job_above_the_limit_goes_alone() -> None:
    long, short = run_of(1200), run_of(1100)
    assert len(scheduler(long, short).select()) == 1


def test_little_padding_is_accepted_and_much_is_not() -> None:
    near, far = [run_of(100), run_of(80)], [run_of(100), run_of(70)]
    assert len(scheduler(*near).select()) == 2
    assert len(scheduler(*far).select()) == 1


def test_models_do_not_mix() -> None:
    assert len(scheduler(run_of(100), run_of(100, model="other")).select()) == 1


def test_a_newcomer_joins_at_the_next_step() -> None:
    first, second = run_of(200), run_of(200)
    made = scheduler(first)
    made.advance(made.select())
    made.add(second)
    made.admit()
    assert made.select() == [first, second]


def test_urgent_jobs_go_before_others() -> None:
    others = [run_of(200) for _ in range(3)]
    made = scheduler(*others, batch_frames=200)
    made.advance(made.select())
    urgent = run_of(400, urgent=True)
    made.add(urgent)
    made.admit()
    assert finish(made)[0] is urgent


def test_first_chunks_step_with_few_others_and_before_them() -> None:
    made = FlowScheduler(16, waiting_limit=8, batch_frames=1000, first_audio_frames=450)
    answers = [run_of(200) for _ in range(4)]
    urgent = [run_of(200, urgent=True) for _ in range(3)]
    for task in (*answers, *urgent):
        made.add(task)
    made.admit()
    assert made.select() == urgent[:2]
    for task in urgent:
        made.remove(task)
    assert set(made.select()) == set(answers), "where nobody waits all share the batch"


def test_who_will_hear_silence_soon_joins_first_chunks() -> None:
    made = FlowScheduler(16, waiting_limit=8, batch_frames=1000, first_audio_frames=450)
    dry = [run_of(200, buffered=0.0) for _ in range(2)]
    later = run_of(200, buffered=math.inf)
    urgent = [run_of(200, urgent=True) for _ in range(3)]
    for task in (*dry, later, *urgent):
        made.add(task)
    made.admit()
    assert set(made.select()) == {*urgent[:2], *dry}


def test_a_first_chunk_is_joined_by_others_where_there_is_room() -> None:
    made = FlowScheduler(16, waiting_limit=8, batch_frames=1000, first_audio_frames=450)
    whole, urgent = run_of(200), run_of(200, urgent=True)
    for task in (whole, urgent):
        made.add(task)
    made.admit()
    assert set(made.select()) == {urgent, whole}


def test_it_is_urgent_while_a_listener_waits_or_somebody_has_left() -> None:
    whole = run_of(50)
    made = scheduler(whole)
    assert not made.urgent
    first = run_of(10, urgent=True)
    made.add(first)
    assert made.urgent, "also in the line"
    made.remove(first)
    made.add(run_of(10, buffered=0.0))
    assert made.urgent
    whole.cancel()
    assert scheduler(whole).urgent


def test_urgent_jobs_get_the_next_free_slot() -> None:
    first, other, urgent = run_of(200), run_of(200), run_of(200, urgent=True)
    made = scheduler(first, other, urgent, slots=1)
    assert made.running == [urgent]
    assert list(made.waiting) == [first, other]


def paced(*tasks: FlowTask, **limits: int) -> FlowScheduler:
    """A scheduler whose machine takes a millisecond a frame."""
    made = scheduler(run_of(100, steps=1), batch_frames=200, **limits)
    made.advance(batch := made.select(), seconds=0.1)
    made.remove(*batch)
    for task in tasks:
        made.add(task)
    made.admit()
    return made


def test_who_runs_dry_first_goes_before_who_has_more_to_play() -> None:
    tasks = [run_of(200, buffered=seconds) for seconds in (3.0, 1.0, 2.0)]
    assert finish(paced(*tasks)) == [tasks[1], tasks[2], tasks[0]]


def test_first_chunks_go_before_who_has_run_dry() -> None:
    dry, first = run_of(200, buffered=0.0), run_of(200, urgent=True)
    assert finish(paced(dry, first)) == [first, dry]


def test_who_runs_dry_goes_before_whole_answers() -> None:
    answers = [run_of(100) for _ in range(3)]
    dry = run_of(200, steps=8, buffered=0.5)
    assert finish(paced(*answers, dry))[0] is dry


def test_who_has_plenty_to_play_does_not_go_before_whole_answers() -> None:
    answer, listener = run_of(200, steps=2), run_of(200, steps=4, buffered=60.0)
    assert finish(paced(listener, answer)) == [answer, listener]


def test_who_runs_dry_gets_the_next_free_slot() -> None:
    first, later, sooner = run_of(200), run_of(200, buffered=0.5), run_of(200, buffered=0.1)
    made = paced(first, later, sooner, slots=1)
    assert made.running == [sooner]
    assert list(made.waiting) == [first, later]


def test_urgent_jobs_do_not_starve_others() -> None:
    patient = run_of(100, steps=1)
    made = scheduler(patient, batch_frames=100, slots=2)
    taken = 0
    while patient in made.running:
        made.add(run_of(100, steps=1, urgent=True))
        made.admit()
        made.advance(batch := made.select())
        for task in batch:
            made.remove(task)
        taken += 1
    assert made.turns.aging < taken < 2 * made.turns.aging


def test_short_jobs_do_not_queue_behind_long_ones() -> None:
    long, short = run_of(900, steps=32), run_of(300, steps=4)
    made = scheduler(long)
    made.advance(made.select())
    made.add(short)
    made.admit()
    assert finish(made) == [short, long]


def test_a_long_job_is_not_starved() -> None:
    long = run_of(900, steps=4)
    made = scheduler(long)
    ended = []
    for _ in range(60):
        made.add(run_of(300, steps=1))
        made.admit()
        batch = made.select()
        made.advance(batch)
        for task in [task for task in batch if task.finished]:
            made.remove(task)
            ended.append(task)
    assert long in ended


def test_the_line_is_bounded_and_in_order() -> None:
    tasks = [run_of(100) for _ in range(11)]
    made = scheduler(*tasks[:10], slots=2)
    with pytest.raises(Overloaded, match=r"8 are waiting.*waiting_limit 8"):
        made.add(tasks[10])
    assert made.running == tasks[:2]
    assert finish(made)[:2] == tasks[:2]


def test_cancelled_jobs_leave_the_line_and_the_slots() -> None:
    tasks = [run_of(100) for _ in range(4)]
    made = scheduler(*tasks, slots=2)
    tasks[1].cancel()
    tasks[3].cancel()
    assert set(made.drop_cancelled()) == {tasks[1], tasks[3]}
    made.admit()
    assert made.running == [tasks[0], tasks[2]]
    assert made.drop_cancelled() == []


def test_a_listener_has_a_slot_beside_those_of_whole_answers() -> None:
    made = FlowScheduler(2, waiting_limit=8, batch_frames=1000, headroom=1)
    answers, urgent = [run_of(100) for _ in range(4)], run_of(100, urgent=True)
    for task in answers:
        made.add(task)
    made.admit()
    assert len(made.running) == 2
    made.add(urgent)
    made.admit()
    assert urgent in made.running
    assert len(made.running) == 3


def test_a_request_of_sixty_sentences_does_not_stand_before_one_of_one() -> None:
    made = FlowScheduler(4, waiting_limit=99, batch_frames=100)
    many, one = [run_of(100, owner="many") for _ in range(60)], run_of(100, owner="one")
    for task in (*many, one):
        made.add(task)
    made.admit()
    assert finish(made).index(one) < 2


def test_company_joins_first_audio_only_where_it_costs_nothing() -> None:
    for costs in (True, False):
        made = FlowScheduler(4, waiting_limit=9, batch_frames=1000, company_costs=costs)
        tasks = [run_of(100), run_of(100, urgent=True), run_of(100, buffered=1.0)]
        for task in tasks:
            made.add(task)
        made.admit()
        assert set(made.select()) == set(tasks[1:] if costs else tasks)
