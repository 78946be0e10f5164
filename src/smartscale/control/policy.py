"""Scaling policies: YAML files in the shape of a Kubernetes resource, with ``autoscaling/v2``'s names.

Every mistake becomes a ``Problem`` with file, line, field and remedy; a file with a mistake stops no other file.
Two policies for one target are refused both: neither may fight the other (design, section 6).

YAML is read by its 1.2 core schema for booleans (``true`` and ``false`` only), so that ``mode: Off`` is a word.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import yaml
from msgspec import Meta

API_VERSION: Final = "smartscale.io/v1alpha1"

Mode = Literal["Off", "Preview", "Auto"]
Direction = Literal["scaleOut", "scaleIn"]

Name = Annotated[str, Meta(min_length=1, max_length=253, description="a name, such as shop")]
Seconds = Annotated[float, Meta(ge=0, le=86_400, description="seconds from 0 to 86400, such as 30")]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A mapping of a policy file."""


class Metadata(_Part, frozen=True, kw_only=True):
    name: Name


class TargetRef(_Part, frozen=True, kw_only=True):
    """What is scaled. ``command`` starts one replica of a ``Processes`` target (``{id}`` and ``{ready}`` are filled
    in: the replica's id, and a path that it creates once it serves); without it, the sample service's replica."""

    kind: Annotated[Literal["Processes", "DryRun"], Meta(description="Processes or DryRun")]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$", description="a name in lower case, such as shop"
        ),
    ]
    command: Annotated[list[str], Meta(min_length=1, description="a list of words")] | None = None


class DemandRef(_Part, frozen=True, kw_only=True):
    """Where load is read: a metric that counts arrivals, or the rate of finished events of a kind. Completions
    saturate exactly when it matters, so arrivals are better."""

    metric: Name | None = None
    rate: Annotated[Literal["interaction", "log"], Meta(description="interaction or log")] | None = None


class Predictive(_Part, frozen=True, kw_only=True):
    """``risk`` is the tolerated probability of too few replicas over the lead time; ``leadTimeSeconds`` replaces
    the measured time from decision to ready."""

    enabled: Annotated[bool, Meta(description="true or false")] = True
    risk: Annotated[float, Meta(gt=0, lt=1, description="a probability between 0 and 1, such as 0.05")] = 0.05
    lead_time_seconds: Seconds | None = None


class RatePolicy(_Part, frozen=True, kw_only=True):
    """HPAScalingPolicy: at most ``value`` pods or percent within ``periodSeconds``."""

    type: Annotated[Literal["Pods", "Percent"], Meta(description="Pods or Percent")]
    value: Annotated[int, Meta(gt=0, description="a whole number above 0")]
    period_seconds: Annotated[
        int, Meta(gt=0, le=1800, description="whole seconds from 1 to 1800, such as 15")
    ]


class Rules(_Part, frozen=True, kw_only=True):
    """HPAScalingRules of one direction. ``tolerance`` None: 0.1 with ``algorithm: hpa`` (Kubernetes' default), else 0."""

    stabilization_window_seconds: (
        Annotated[int, Meta(ge=0, le=3600, description="whole seconds from 0 to 3600, such as 300")] | None
    ) = None
    select_policy: Annotated[Literal["Max", "Min", "Disabled"], Meta(description="Max, Min or Disabled")] = (
        "Max"
    )
    policies: (
        Annotated[list[RatePolicy], Meta(min_length=1, description="a list of {type, value, periodSeconds}")]
        | None
    ) = None
    tolerance: (
        Annotated[float, Meta(ge=0, lt=1, description="a fraction from 0 to below 1, such as 0.1")] | None
    ) = None


SCALE_UP_DEFAULT: Final = Rules(
    stabilization_window_seconds=0,
    policies=[
        RatePolicy(type="Pods", value=4, period_seconds=15),
        RatePolicy(type="Percent", value=100, period_seconds=15),
    ],
)
SCALE_DOWN_DEFAULT: Final = Rules(
    stabilization_window_seconds=300,
    policies=[RatePolicy(type="Percent", value=100, period_seconds=15)],
)
"""Kubernetes' own defaults (autoscaling/v2, "Default Behavior" of the HPA documentation)."""


class Behavior(_Part, frozen=True, kw_only=True):
    scale_up: Rules = Rules()
    scale_down: Rules = Rules()


class Modes(_Part, frozen=True, kw_only=True):
    """What each direction may do: nothing, say what it would do, or do it."""

    scale_out: Annotated[Mode, Meta(description="Off, Preview or Auto")] = "Preview"
    scale_in: Annotated[Mode, Meta(description="Off, Preview or Auto")] = "Preview"


class Spec(_Part, frozen=True, kw_only=True):
    service: Name
    tenant: Name = "default"
    scale_target_ref: TargetRef
    min_replicas: Annotated[int, Meta(ge=1, description="a whole number, 1 or more")] = 1
    max_replicas: Annotated[int, Meta(ge=1, description="a whole number, not below minReplicas")]
    capacity_per_replica: Annotated[
        float, Meta(gt=0, description="events a second that one replica can serve, above 0")
    ]
    target_utilization: Annotated[
        float, Meta(gt=0, le=1, description="the wanted busy fraction, above 0 and at most 1, such as 0.75")
    ] = 0.75
    demand: DemandRef | None = None
    window: Annotated[
        str, Meta(pattern=r"^[0-9.]+s(/[0-9.]+s)?$", description='a window label, such as "10s" or "60s/5s"')
    ] = "10s"
    predictive: Predictive = Predictive()
    behavior: Behavior = Behavior()
    mode: Annotated[
        Mode | Modes, Meta(description="Off, Preview or Auto, or {scaleOut: ..., scaleIn: ...}")
    ] = "Preview"
    algorithm: Annotated[Literal["smartscale", "hpa"], Meta(description="smartscale or hpa")] = "smartscale"


class Policy(_Part, frozen=True, kw_only=True):
    """One scaling policy, valid."""

    api_version: Annotated[Literal["smartscale.io/v1alpha1"], Meta(description=API_VERSION)]
    kind: Annotated[Literal["ScalingPolicy"], Meta(description="ScalingPolicy")]
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        return self.metadata.name

    def mode(self, direction: Direction) -> Mode:
        mode = self.spec.mode
        if isinstance(mode, Modes):
            return mode.scale_out if direction == "scaleOut" else mode.scale_in
        return mode

    @property
    def scale_up(self) -> Rules:
        return _filled(self.spec.behavior.scale_up, SCALE_UP_DEFAULT, self.spec.algorithm)

    @property
    def scale_down(self) -> Rules:
        return _filled(self.spec.behavior.scale_down, SCALE_DOWN_DEFAULT, self.spec.algorithm)


def _filled(given: Rules, default: Rules, algorithm: str) -> Rules:
    window = given.stabilization_window_seconds
    return Rules(
        stabilization_window_seconds=default.stabilization_window_seconds if window is None else window,
        select_policy=given.select_policy,
        policies=given.policies or default.policies,
        tolerance=given.tolerance if given.tolerance is not None else (0.1 if algorithm == "hpa" else 0.0),
    )


class Problem(msgspec.Struct, frozen=True, order=True):
    """One mistake in a policy file. ``line`` counts from 1; 0 when there is none."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class Loaded(msgspec.Struct, frozen=True):
    """The policies that can be used, the file of each by name, and what is wrong with the others. ``conflicts``
    are the names of policies refused for another one's sake."""

    policies: list[Policy]
    problems: list[Problem]
    files: dict[str, str] = {}
    conflicts: frozenset[str] = frozenset()


def load(path: Path | str) -> Loaded:
    """Policies of a file or of a folder's ``*.yaml`` and ``*.yml`` files; never raises for what is in them."""
    path = Path(path)
    problems: list[Problem] = []
    found: list[tuple[Policy, str, int]] = []
    for file in _files(path, problems):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(str(file), 0, "", f"cannot be read: {error}; mend the file or remove it"))
            continue
        found += [(policy, str(file), line) for policy, line in parse(text, str(file), problems)]
    refused = _conflicts(found, problems)
    good = [(policy, file) for number, (policy, file, _) in enumerate(found) if number not in refused]
    return Loaded(
        policies=[policy for policy, _ in good],
        problems=sorted(problems),
        files={policy.name: file for policy, file in good},
        conflicts=frozenset(found[number][0].name for number in refused),
    )


def reload(before: Loaded, path: Path | str) -> Loaded:
    """As ``load``; but a policy whose file was good before and is broken now stays in force as it was.

    So a slip in an edit does not stop a service from being scaled. A file that is gone takes its policies along, and
    a conflict stops both sides."""
    now = load(path)
    broken = {problem.file for problem in now.problems}
    taken = {policy.spec.scale_target_ref.name for policy in now.policies}
    kept = [
        policy
        for policy in before.policies
        if before.files[policy.name] in broken
        and policy.name not in now.files
        and policy.name not in now.conflicts
        and policy.spec.scale_target_ref.name not in taken
    ]
    files = now.files | {policy.name: before.files[policy.name] for policy in kept}
    return Loaded([*now.policies, *kept], now.problems, files, now.conflicts)


def check(path: Path | str) -> list[Problem]:
    """What ``smartscale policy check PATH`` prints; empty if every policy can be used."""
    return load(path).problems


def parse(text: str, file: str, problems: list[Problem]) -> list[tuple[Policy, int]]:
    """The valid policies of one file's text with the line each begins in; mistakes are added to ``problems``."""
    policies = []
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            before = len(problems)
            policy = _Document(file, loader, problems).read(node, Policy, "")
            if len(problems) == before and isinstance(policy, Policy):
                policies.append((policy, node.start_mark.line + 1))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.append(
            Problem(file, mark.line + 1 if mark else 0, "", f"not valid YAML: {error.problem}; mend the line")
        )
    finally:
        loader.dispose()
    return policies


def _files(path: Path, problems: list[Problem]) -> Iterable[Path]:
    if path.is_dir():
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        if not files:
            problems.append(Problem(str(path), 0, "", "no policy here; add a file that ends in .yaml"))
        return files
    if not path.exists():
        problems.append(Problem(str(path), 0, "", "not found; check the path (control.policies)"))
        return []
    return [path]


def _conflicts(found: list[tuple[Policy, str, int]], problems: list[Problem]) -> set[int]:
    """Numbers of the policies that share a target or a name with another one."""
    refused: set[int] = set()
    keys: list[tuple[str, str, Callable[[Policy], str]]] = [
        (
            "spec.scaleTargetRef",
            "target",
            lambda p: f"{p.spec.scale_target_ref.kind}/{p.spec.scale_target_ref.name}",
        ),
        ("metadata.name", "name", lambda p: p.name),
    ]
    for field, what, key in keys:
        groups: dict[str, list[int]] = defaultdict(list)
        for number, (policy, _, _) in enumerate(found):
            groups[key(policy)].append(number)
        for shared, numbers in groups.items():
            if len(numbers) > 1:
                refused.update(numbers)
                places = " and ".join(f"{found[n][0].name} ({found[n][1]}:{found[n][2]})" for n in numbers)
                problems += [
                    Problem(
                        found[n][1], found[n][2], field,
                        f"the {what} {shared} belongs to several policies: {places}; none of them is used until "
                        f"all but one are removed",
                    )
                    for n in numbers
                ]  # fmt: skip
    return refused


class _Loader(yaml.SafeLoader):
    """YAML whose booleans are only ``true`` and ``false``."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Document:
    """Reads one YAML document into structs, collecting every mistake with its line."""

    def __init__(self, file: str, loader: _Loader, problems: list[Problem]) -> None:
        self._file, self._loader, self._problems = file, loader, problems

    def _problem(self, node: yaml.Node, field: str, message: str) -> None:
        self._problems.append(Problem(self._file, node.start_mark.line + 1, field, message))

    def read(self, node: yaml.Node, kind: object, field: str) -> object:
        """The value of ``node`` as ``kind``; on a mistake some value, and a problem told."""
        struct = _find(kind, lambda t: isinstance(t, type) and issubclass(t, msgspec.Struct))
        if isinstance(node, yaml.MappingNode) and isinstance(struct, type):
            return self._struct(node, struct, field)
        items = _find(kind, lambda t: typing.get_origin(t) is list)
        element = typing.get_args(items)[0] if items is not None else None
        if isinstance(node, yaml.SequenceNode) and _is_struct(element):
            values = [self.read(item, element, f"{field}[{n}]") for n, item in enumerate(node.value)]
            if not values:
                self._problem(node, field, f"is empty; write {_describe(kind)} or leave the field out")
            return values
        value = self._loader.construct_object(node, deep=True)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            self._problem(node, field, f"is {value!r}; write {_describe(kind)}")
            return None

    def _struct(self, node: yaml.MappingNode, struct: type[msgspec.Struct], field: str) -> object:
        known = {info.encode_name: info for info in msgspec.structs.fields(struct)}
        values: dict[str, object] = {}
        prefix = f"{field}." if field else ""
        before = len(self._problems)
        for key_node, value_node in node.value:
            key = str(key_node.value)
            info = known.get(key)
            if info is None:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known fields: {', '.join(known)}"
                self._problem(key_node, f"{prefix}{key}", f"no such field; {hint}")
            elif info.name in values:
                self._problem(key_node, f"{prefix}{key}", "is given twice; remove one")
            else:
                values[info.name] = self.read(value_node, info.type, f"{prefix}{key}")
        for name, info in known.items():
            if info.required and info.name not in values and len(self._problems) == before:
                self._problem(node, f"{prefix}{name}", f"is missing; write {_describe(info.type)}")
        if len(self._problems) > before:
            return None
        value = struct(**values)
        for check_name, check_field, holds, message in _RULES:
            if struct is check_name and not holds(value):
                line_node = next((v for k, v in node.value if k.value == check_field), node)
                self._problem(line_node, f"{prefix}{check_field}", message)
        return value


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _find(kind: object, wanted: Callable[[object], bool]) -> object | None:
    """The first part of a type (through Annotated and unions) that is ``wanted``."""
    if wanted(kind):
        return kind
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        parts: tuple[object, ...] = typing.get_args(kind)
    elif origin is Annotated:
        parts = typing.get_args(kind)[:1]
    else:
        return None
    return next((found for part in parts if (found := _find(part, wanted)) is not None), None)


def _describe(kind: object) -> str:
    """What a person should write: the type's description, or its fields."""
    annotated = _find(kind, lambda t: typing.get_origin(t) is Annotated)
    if annotated is not None:
        for meta in typing.get_args(annotated)[1:]:
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    struct = _find(kind, _is_struct)
    if isinstance(struct, type):
        names = ", ".join(f.encode_name for f in msgspec.structs.fields(struct))
        return f"a mapping of {names}"
    return str(kind)


def _rule(struct: type, field: str, holds: Callable[[typing.Any], bool], message: str) -> tuple[
    type, str, Callable[[typing.Any], bool], str
]:  # fmt: skip
    return struct, field, holds, message


_RULES: Final = [
    _rule(
        Spec, "maxReplicas", lambda s: s.max_replicas >= s.min_replicas,
        "is below minReplicas; write a number that is not",
    ),
    _rule(
        DemandRef, "metric", lambda d: (d.metric is None) != (d.rate is None),
        "give either metric or rate; write {metric: arrivals} or {rate: interaction}",
    ),
]  # fmt: skip
"""What types cannot say: struct, field, whether it holds, the remedy."""
