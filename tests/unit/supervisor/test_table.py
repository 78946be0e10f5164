"""What `smartscale up` does with its processes, told on a timeline of seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.supervisor.table import (
    BACK_OFF_MAX_S,
    HEALTHY_S,
    STOP_LIMIT_S,
    Action,
    Drained,
    Exited,
    Gate,
    Input,
    Kill,
    Phase,
    Probed,
    Spec,
    Start,
    Stop,
    Table,
    Tell,
    Terminate,
    step,
    table,
)

SPECS = [Spec("sample-0", 0, is_load=True), Spec("ingest-0", 1), Spec("combine-0", 2), Spec("combine-1", 2)]
GATE = Gate(rank=1, limit_s=10.0)
"""Ingest and what comes after it wait for ``Drained``, at most ten seconds."""
STAGES = [spec.name for spec in SPECS if not spec.is_load]


class Run:
    """Drives the table and remembers the actions of the last step."""

    def __init__(self) -> None:
        self.table: Table = table(SPECS)
        self.actions: list[Action] = []

    def at(self, now_s: float, *inputs: Input) -> list[Action]:
        self.table, actions = step(self.table, inputs, now_s)
        self.actions = [action for action in actions if not isinstance(action, Tell)]
        self.told = [action.text for action in actions if isinstance(action, Tell)]
        return self.actions

    def all_ready(self, now_s: float = 0.0) -> None:
        self.at(now_s)
        self.at(now_s, *[Probed(name, True, "ready") for name in STAGES])
        self.at(now_s, Probed("sample-0", True, "ready"))

    def phase(self, name: str) -> Phase:
        return self.table.processes[name].phase


def test_stages_start_at_once_and_the_load_when_they_are_ready() -> None:
    """No load is offered to a pipeline that is not there yet."""
    run = Run()
    assert run.at(0.0) == [Start(name) for name in STAGES]
    assert run.at(1.0, *[Probed(name, True, "ready") for name in STAGES]) == [Start("sample-0")]


def test_a_process_that_dies_is_started_again_after_half_a_second() -> None:
    """Killed at 5.0, started at 5.5."""
    run = Run()
    run.all_ready()
    assert run.at(5.0, Exited("combine-0", -9)) == []
    assert "killed by signal 9" in run.told[0]
    assert run.at(5.4) == []
    assert run.at(5.5) == [Start("combine-0")]
    assert run.table.processes["combine-0"].restarts == 1


def test_the_wait_doubles_with_failures_in_a_row_and_is_forgotten_after_a_healthy_minute() -> None:
    """0.5, 1, 2 s; then a minute ready; then 0.5 s again."""
    run = Run()
    run.all_ready()
    now_s, waits = 0.0, []
    for _ in range(3):
        run.at(now_s, Exited("ingest-0", 3))
        waits.append(run.table.processes["ingest-0"].since_s - now_s)
        now_s = run.table.processes["ingest-0"].since_s
        run.at(now_s)
    run.at(now_s, Probed("ingest-0", True, "ready"))
    run.at(now_s + HEALTHY_S, Exited("ingest-0", 3))
    waits.append(run.table.processes["ingest-0"].since_s - now_s - HEALTHY_S)
    assert waits == [0.5, 1.0, 2.0, 0.5]


def test_wrong_input_is_told_and_ends_everything_with_code_2() -> None:
    """It is not started again: only a person can mend it. Nothing is waited for."""
    run = Run()
    run.all_ready()
    assert run.at(1.0, Exited("ingest-0", 2)) == [Terminate("sample-0")]
    assert any("ingest-0" in text for text in run.told)
    assert run.at(1.1, Exited("sample-0", 0)) == [Terminate("combine-0"), Terminate("combine-1")]
    run.at(1.2, Exited("combine-0", 0), Exited("combine-1", 0))
    assert run.table.ended
    assert run.table.exit_code == 2


def test_stopping_goes_load_then_drain_then_ingest_then_combine() -> None:
    """One rank has ended before the next is asked to."""
    run = Run()
    run.all_ready()
    assert run.at(1.0, Stop("asked to", gate=GATE)) == [Terminate("sample-0")]
    assert run.at(1.5) == []
    assert run.at(2.0, Exited("sample-0", 0)) == []
    assert run.at(3.0, Drained()) == [Terminate("ingest-0")]
    assert run.at(4.0, Exited("ingest-0", 0)) == [Terminate("combine-0"), Terminate("combine-1")]
    run.at(5.0, Exited("combine-0", 0))
    ended_before = run.table.ended
    run.at(5.5, Exited("combine-1", 0))
    assert (ended_before, run.table.ended) == (False, True)
    assert run.table.exit_code == 0


def test_a_drained_told_before_the_load_has_ended_does_not_count() -> None:
    """The ledger may balance for a moment while events still come."""
    run = Run()
    run.all_ready()
    run.at(0.5, Drained())
    run.at(1.0, Stop("asked to", gate=GATE))
    assert run.at(2.0, Exited("sample-0", 0)) == []


def test_a_gate_may_stand_further_down() -> None:
    """Ingest stops at once; combine waits until it has read what ingest wrote last."""
    run = Run()
    run.all_ready()
    run.at(1.0, Stop("asked to", gate=Gate(rank=2, limit_s=5.0)))
    assert run.at(1.1, Exited("sample-0", 0)) == [Terminate("ingest-0")]
    assert run.at(1.2, Exited("ingest-0", 0)) == []
    assert run.at(1.3, Drained()) == [Terminate("combine-0"), Terminate("combine-1")]


def test_what_does_not_drain_is_stopped_after_the_limit() -> None:
    """The limit here is 10 s from the end of the load."""
    run = Run()
    run.all_ready()
    run.at(1.0, Stop("asked to", gate=GATE))
    run.at(2.0, Exited("sample-0", 0))
    assert run.at(11.9) == []
    assert run.at(12.0) == [Terminate("ingest-0")]


def test_a_process_that_does_not_stop_is_killed() -> None:
    """After the limit, and told."""
    run = Run()
    run.all_ready()
    run.at(1.0, Stop("asked to"))
    assert run.at(1.0 + STOP_LIMIT_S) == [Kill("sample-0")]


def test_a_second_stop_kills_everything_at_once() -> None:
    """Two Ctrl-C."""
    run = Run()
    run.all_ready()
    run.at(1.0, Stop("asked to"))
    assert set(run.at(1.1, Stop("asked again", at_once=True))) == {Kill(spec.name) for spec in SPECS}
    run.at(1.2, *[Exited(spec.name, -9) for spec in SPECS])
    assert run.table.ended


def test_a_load_that_ends_by_itself_has_finished_and_is_not_started_again() -> None:
    """Exit code 0 is its end; a crash is a failure as any other."""
    run = Run()
    run.all_ready()
    assert run.at(1.0, Exited("sample-0", 0)) == []
    assert run.table.loads_ended
    assert run.at(100.0) == []
    crashed = Run()
    crashed.all_ready()
    crashed.at(1.0, Exited("sample-0", 3))
    assert crashed.at(2.0) == [Start("sample-0")]


def test_a_process_that_is_not_ready_any_more_is_told_with_its_reason() -> None:
    """Readiness comes and goes without a restart."""
    run = Run()
    run.all_ready()
    assert run.at(1.0, Probed("ingest-0", False, "the log is full")) == []
    assert run.told == ["ingest-0 is not ready: the log is full"]
    assert run.phase("ingest-0") is Phase.STARTING


@given(st.lists(st.tuples(st.sampled_from([s.name for s in SPECS]), st.integers(-15, 5)), max_size=40))
def test_whatever_dies_a_process_never_runs_twice_and_waits_are_bounded(
    deaths: list[tuple[str, int]],
) -> None:
    """A process is started only while it is not running, at most 30 s after it ended."""
    run = Run()
    run.all_ready()
    running, now_s = {spec.name for spec in SPECS}, 0.0
    for name, code in deaths:
        now_s += BACK_OFF_MAX_S
        inputs: list[Input] = [Exited(name, code)] if name in running else []
        running -= {name} if inputs else set()
        for action in run.at(now_s, *inputs):
            if isinstance(action, Start):
                assert action.name not in running
                running.add(action.name)
    now_s += 2 * BACK_OFF_MAX_S
    run.at(now_s)
    assert all(p.since_s <= now_s + BACK_OFF_MAX_S for p in run.table.processes.values())


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_what_ends_while_stopping_is_not_started_again(name: str) -> None:
    """Not even by a crash."""
    run = Run()
    run.all_ready()
    run.at(1.0, Stop("asked to"))
    run.at(1.1, Exited(name, 3))
    assert Start(name) not in run.at(100.0)
