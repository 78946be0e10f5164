"""Decisions: what control wants, and why. Stored before they are carried out."""

from __future__ import annotations

import msgspec


class Demand(msgspec.Struct, frozen=True):
    """One reason for replicas. ``source``: reactive, predictive or scheduled. ``load`` in the policy's unit
    (events a second), ``replicas`` what it asks for; ``detail`` says how the number came about."""

    source: str
    load: float
    replicas: int
    detail: str


class Clamp(msgspec.Struct, frozen=True):
    """One rule that was applied, in order. ``before`` and ``after`` are replica counts; ``reason`` is a code
    (CamelCase, as in Kubernetes conditions), ``detail`` a sentence."""

    reason: str
    before: int
    after: int
    detail: str


class Condition(msgspec.Struct, frozen=True):
    """As in ``autoscaling/v2``: AbleToScale, ScalingActive, ScalingLimited."""

    type: str
    status: bool
    reason: str
    message: str


def _nothing() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One evaluation of one policy.

    ``recommended`` is what load asks for, ``desired`` the result after every clamp. ``act`` tells whether the
    actuator is asked to change anything (False in Preview, when nothing changes, or when held). An actuator
    refuses a decision whose ``expires_us`` has passed or whose ``epoch`` is lower than one it has seen.
    ``inputs`` holds the whole observation and ``state`` the controller's state before it, so that the decision
    can be replayed and the state rebuilt. ``would_change`` says what would have led to another result."""

    id: str
    policy: str
    tenant: str
    service: str
    time_us: int
    expires_us: int
    epoch: int
    mode: str
    current: int
    recommended: int
    desired: int
    act: bool
    demands: list[Demand]
    clamps: list[Clamp]
    conditions: list[Condition]
    reason: str
    capacity_per_replica: float
    quantile: float | None = None
    metric_revisions: dict[str, int] = {}
    would_change: list[str] = []
    inputs: msgspec.Raw = msgspec.field(default_factory=_nothing)
    state: msgspec.Raw = msgspec.field(default_factory=_nothing)


class Owner(msgspec.Struct, frozen=True):
    """A controller's claim on a partition of ``decisions``; epochs only rise."""

    partition: int
    epoch: int
    owner: str
    time_us: int


encode = msgspec.json.Encoder().encode
decode_decision = msgspec.json.Decoder(Decision).decode
decode_owner = msgspec.json.Decoder(Owner).decode
