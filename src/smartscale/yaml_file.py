"""YAML files as typed values, every mistake told with its line, its field and a remedy.

Booleans and numbers are those of YAML's 1.2 core schema, so ``off`` and ``14:00`` are words and ``1e6`` is a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import yaml

from smartscale.errors import ConfigError

T = TypeVar("T")


def parse(
    text: str,
    kind: type[T],
    where: str,
    remedy: str,
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> T:
    """The text as a ``kind`` (a msgspec struct). ``where`` starts every error message, ``remedy`` ends those that
    have none of their own. ``dec_hook`` is msgspec's. Raises ``ConfigError`` for the first mistake."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{at}: not valid YAML: {error.problem}; mend the line") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{where}: not valid YAML: {told}; mend the file") from error
    try:
        return msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        unknown = _UNKNOWN.search(message)
        steps = _steps(path) + ([unknown[1]] if unknown else [])
        if unknown:
            message = _no_such_field(unknown[1], kind)
        field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        ends = "" if unknown and "did you mean" in message else f"; {remedy}"
        line_number = _line_of(node, steps) if node is not None else 1
        raise ConfigError(
            f"{where}, line {line_number}, {field or 'top level'}: {message[:1].lower()}{message[1:]}{ends}"
        ) from error


def line(text: str, field: str) -> int:
    """The line, from 1, of a field such as ``services[0].name`` in a text that is good YAML."""
    node = _Loader(text).get_single_node()
    return _line_of(node, _steps(f".{field}")) if node is not None else 1


def _line_of(node: yaml.Node, steps: list[str | int]) -> int:
    """The line, from 1, of the field that the steps lead to; of the last one found if it is missing."""
    for step in steps:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == step), None)
            key_line = next((key for key, _ in node.value if key.value == step), None)
            if key_line is not None and not isinstance(found, yaml.CollectionNode):
                return int(key_line.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step]
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1


_UNKNOWN: Final = re.compile(r"unknown field `(.+)`")
_STEP: Final = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")


def _steps(path: str) -> list[str | int]:
    """Names and places of a msgspec path such as ``.services[0].name``."""
    return [found[1] or int(found[2]) for found in _STEP.finditer(path)]


def _no_such_field(name: str, kind: type) -> str:
    fields = {
        field
        for definition in msgspec.json.schema_components([kind], schema_hook=lambda _: {"type": "string"})[
            1
        ].values()
        for field in definition.get("properties", ())
    }
    close = difflib.get_close_matches(name, fields - {name}, n=1)
    return f"no such field; did you mean {close[0]}?" if close else "no such field here"


class _Loader(yaml.SafeLoader):
    """YAML with the plain words of 1.2, whose mappings have each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_CORE: Final = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
}
"""What plain words are booleans and numbers (YAML 1.2.2, section 10.3.2), and what these begin with."""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _CORE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^({_pattern})$"), list(_first))
