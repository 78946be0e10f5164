"""The balancer: every request ends exactly once, whatever happens to replicas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartscale.clock import MICROS
from smartscale.sample.balancer import Balancer
from smartscale.sample.protocol import LOST, OK, REJECTED, TIMED_OUT


def balancer(*replicas: str) -> Balancer:
    """10 requests/s a replica, time-out 2 s, so a queue of 20 a replica; about a second of work handed out ahead."""
    made = Balancer(capacity_per_s=10, timeout_s=2.0, allowance_s=0.95)
    for name in replicas:
        made.added(name, 10)
    return made


def test_requests_go_to_the_shortest_queue() -> None:
    """Four requests, two replicas: two each."""
    made = balancer("a", "b")
    made.arrive([0, 1, 2, 3])
    assert {name: len(batch.requests) for name, batch in made.dispatch(1.0).items()} == {"a": 2, "b": 2}


def test_a_replica_gets_only_what_it_can_soon_serve() -> None:
    """15 requests for one replica of 10/s and a second of allowance: 10 go, 5 wait, and a new replica takes those."""
    made = balancer("a")
    made.arrive(range(15))
    made.dispatch(1.0)
    assert made.queued == 5
    made.added("b", 10)
    assert [name for name, batch in made.dispatch(1.0).items() if len(batch.requests) == 5] == ["b"]


def test_beyond_what_could_be_served_in_time_is_rejected_at_once() -> None:
    """No replica: 20 wait for the first one to come, the 21st is rejected."""
    made = balancer()
    rejected = made.arrive(range(21))
    assert [(r.request, r.status, r.end_us) for r in rejected] == [(21, REJECTED, 20)]


def test_a_request_waits_no_longer_than_the_time_out() -> None:
    """Arrived at 0, nobody came: fails at 2 s."""
    made = balancer()
    made.arrive([0])
    assert made.expire(2 * MICROS) == []
    assert [(r.status, r.end_us) for r in made.expire(2 * MICROS + 1)] == [(TIMED_OUT, 2 * MICROS)]


def test_what_a_dead_replica_had_is_lost_and_told() -> None:
    """Three outstanding, one answered: two are lost."""
    made = balancer("a")
    made.arrive([0, 1, 2])
    made.dispatch(1.0)
    assert [r.status for r in made.answered("a", [(1, OK, 5)])] == [OK]
    assert [(r.request, r.status, r.end_us) for r in made.removed("a", 9)] == [(2, LOST, 9), (3, LOST, 9)]
    assert (made.ready, made.outstanding) == (0, 0)


def test_a_draining_replica_gets_no_more_and_may_finish() -> None:
    """Its answers still count."""
    made = balancer("a")
    made.arrive([0, 1])
    made.dispatch(1.0)
    made.draining("a")
    made.arrive([2])
    assert made.dispatch(1.0) == {}
    assert len(made.answered("a", [(1, OK, 5), (2, OK, 6)])) == 2


def test_a_replica_that_hangs_is_given_up() -> None:
    """Three time-outs without an answer; one that comes after all is ignored."""
    made = balancer("a")
    made.arrive([0])
    made.dispatch(1.0)
    assert [r.status for r in made.expire(6 * MICROS + 1)] == [TIMED_OUT]
    assert made.answered("a", [(1, OK, 7 * MICROS)]) == []


steps = st.lists(
    st.sampled_from(["arrive", "add", "kill", "drain", "answer", "dispatch", "expire"]), max_size=60
)


@given(steps)
def test_every_request_ends_exactly_once(script: list[str]) -> None:
    """Any order of events; what is left at the end is abandoned."""
    made, now_us, names, ended = balancer(), 0, list[str](), list[int]()
    sent: dict[str, list[int]] = {}
    arrived = 0
    for step in script:
        now_us += 300_000
        match step:
            case "arrive":
                arrived += 5
                ended += [r.request for r in made.arrive([now_us] * 5)]
            case "add":
                names.append(f"r{len(sent)}")
                sent[names[-1]] = []
                made.added(names[-1], 10)
            case "kill" if names:
                ended += [r.request for r in made.removed(names.pop(0), now_us)]
            case "drain" if names:
                made.draining(names[0])
            case "answer" if names:
                due = [(request, OK, now_us) for request in sent[names[-1]][:3]]
                sent[names[-1]] = sent[names[-1]][3:]
                ended += [r.request for r in made.answered(names[-1], due)]
            case "dispatch":
                for name, batch in made.dispatch(1.0).items():
                    sent[name] += [request for request, _ in batch.requests]
            case "expire":
                ended += [r.request for r in made.expire(now_us)]
    for name in names:
        ended += [r.request for r in made.removed(name, now_us)]
    ended += [r.request for r in made.abandon(now_us)]
    assert sorted(ended) == list(range(1, arrived + 1))
    assert made.outstanding == 0
