"""A valid policy in one call, for tests and simulations."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from smartscale.control.policy import Policy


def policy(name: str = "shop", /, **spec: object) -> Policy:
    """A policy for the service, and the target, ``name``. ``spec`` overrides fields by their wire names.

    >>> policy(maxReplicas=3).spec.max_replicas
    3
    """
    fields: Mapping[str, object] = {
        "service": name,
        "scaleTargetRef": {"kind": "DryRun", "name": name},
        "minReplicas": 1,
        "maxReplicas": 100,
        "capacityPerReplica": 10.0,
        "targetUtilization": 1.0,
        "mode": "Auto",
        **spec,
    }
    wire = {
        "apiVersion": "smartscale.io/v1alpha1",
        "kind": "ScalingPolicy",
        "metadata": {"name": name},
        "spec": fields,
    }
    return msgspec.convert(wire, Policy)
