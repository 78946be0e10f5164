"""Policy files: what is read, and that each mistake names file, line, field and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartscale.control.policy import Modes, Policy, check, load, reload

GOOD = """\
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata:
  name: shop
spec:
  service: shop
  scaleTargetRef: {kind: Processes, name: shop}
  minReplicas: 2
  maxReplicas: 9
  capacityPerReplica: 50
  mode: Off
  behavior:
    scaleDown:
      policies:
        - {type: Percent, value: 50, periodSeconds: 60}
"""


def written(folder: Path, text: str, name: str = "shop.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def only_policy(path: Path) -> Policy:
    loaded = load(path)
    assert loaded.problems == []
    assert len(loaded.policies) == 1
    return loaded.policies[0]


def test_a_good_policy_is_read_with_kubernetes_defaults(tmp_path: Path) -> None:
    """What is left out has the defaults of autoscaling/v2; "Off" is a word, not a boolean."""
    policy = only_policy(written(tmp_path, GOOD))
    assert policy.mode("scaleOut") == "Off"
    assert policy.scale_up.stabilization_window_seconds == 0
    assert policy.scale_down.stabilization_window_seconds == 300
    assert [rate.value for rate in policy.scale_down.policies or []] == [50]
    assert (policy.scale_up.tolerance, policy.spec.algorithm) == (0.0, "smartscale")


def test_algorithm_hpa_brings_kubernetes_tolerance(tmp_path: Path) -> None:
    """The cluster-wide default is 10 %."""
    policy = only_policy(written(tmp_path, GOOD + "  algorithm: hpa\n"))
    assert (policy.scale_up.tolerance, policy.scale_down.tolerance) == (0.1, 0.1)


def test_modes_are_given_per_direction(tmp_path: Path) -> None:
    """A mapping instead of a word."""
    text = GOOD.replace("mode: Off", "mode: {scaleOut: Auto, scaleIn: Preview}")
    assert only_policy(written(tmp_path, text)).spec.mode == Modes(scale_out="Auto", scale_in="Preview")


def test_the_example_is_good() -> None:
    """The policy that the demo uses."""
    assert check(Path(__file__).parents[3] / "examples" / "policies") == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("minReplicas: 2", "minReplica: 2", ":8: spec.minReplica: no such field; did you mean minReplicas?"),
        ("minReplicas: 2", "minReplicas: two", ":8: spec.minReplicas: is 'two'; write a whole number, 1 or more"),
        ("minReplicas: 2", "minReplicas: 0", ":8: spec.minReplicas: is 0; write a whole number, 1 or more"),
        ("minReplicas: 2", "minReplicas: 99", ":9: spec.maxReplicas: is below minReplicas"),
        ("  maxReplicas: 9\n", "", ":6: spec.maxReplicas: is missing; write a whole number"),
        ("mode: Off", "mode: Of", ":11: spec.mode: is 'Of'; write Off, Preview or Auto"),
        ("Percent", "Procent", ":15: spec.behavior.scaleDown.policies[0].type: is 'Procent'; write Pods or Percent"),
        ("ScalingPolicy", "Scaler", ":2: kind: is 'Scaler'; write ScalingPolicy"),
        ("maxReplicas: 9", "maxReplicas: 9\n  maxReplicas: 8", ":10: spec.maxReplicas: is given twice"),
        ("{kind: Processes, name: shop}", "{kind: Processes, name: ../x}", ":7: spec.scaleTargetRef.name: is '../x'"),
        ("name: shop\nspec", "name: [shop\nspec", "not valid YAML"),
        ("  mode: Off", "  mode: Off\n  demand: {}", "spec.demand.metric: give either metric or rate"),
        ("apiVersion: smartscale.io/v1alpha1", "apiVersion: v2", ":1: apiVersion: is 'v2'; write smartscale.io/v1alpha1"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_line_field_and_remedy(
    tmp_path: Path, before: str, after: str, problem: str
) -> None:
    """One mistake, one sentence that a person can act on."""
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after))
    told = [str(found) for found in check(path)]
    assert any(str(path) in line and problem in line for line in told), told
    assert load(path).policies == []


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    """Not one per run."""
    text = GOOD.replace("minReplicas: 2", "minReplicas: x").replace("mode: Off", "mode: y")
    assert len(check(written(tmp_path, text))) == 2


def test_one_bad_file_stops_no_other(tmp_path: Path) -> None:
    """The good policy is used, the bad one told."""
    written(tmp_path, GOOD)
    written(tmp_path, GOOD.replace("shop", "api").replace("maxReplicas: 9", ""), "api.yaml")
    loaded = load(tmp_path)
    assert [policy.name for policy in loaded.policies] == ["shop"]
    assert {Path(problem.file).name for problem in loaded.problems} == {"api.yaml"}


def test_two_policies_for_one_target_are_refused_both_by_name(tmp_path: Path) -> None:
    """Neither may fight the other."""
    written(tmp_path, GOOD)
    written(tmp_path, GOOD.replace("name: shop\nspec", "name: other\nspec"), "other.yaml")
    loaded = load(tmp_path)
    assert loaded.policies == []
    assert all("other" in str(p) and "shop" in str(p) and "Processes/shop" in str(p) for p in loaded.problems)
    assert len(loaded.problems) == 2


def test_several_policies_may_share_a_file(tmp_path: Path) -> None:
    """YAML documents, as kubectl takes them."""
    text = GOOD + "---\n" + GOOD.replace("shop", "api")
    assert [policy.name for policy in load(written(tmp_path, text)).policies] == ["shop", "api"]


def test_a_slip_in_an_edit_leaves_the_policy_as_it_was(tmp_path: Path) -> None:
    """The mistake is told; the service is still scaled. A conflict, or a file that is gone, ends it."""
    path = written(tmp_path, GOOD)
    before = load(tmp_path)
    written(tmp_path, GOOD.replace("maxReplicas: 9", "maxReplicas: nine"))
    slip = reload(before, tmp_path)
    assert (slip.policies, len(slip.problems)) == (before.policies, 1)
    written(tmp_path, GOOD.replace("maxReplicas: 9", "maxReplicas: 8"))
    assert [policy.spec.max_replicas for policy in reload(slip, tmp_path).policies] == [8]
    written(tmp_path, GOOD.replace("name: shop\nspec", "name: other\nspec"), "other.yaml")
    assert reload(before, tmp_path).policies == []
    path.unlink()
    assert [policy.name for policy in reload(before, tmp_path).policies] == ["other"]


def test_a_missing_path_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    """Neither raises: a controller without policies waits for them."""
    assert "not found" in str(check(tmp_path / "nothing")[0])
    assert "no policy here" in str(check(tmp_path)[0])
