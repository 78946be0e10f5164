"""YAML files as typed values: the plain words of YAML 1.2, and mistakes with their line."""

from __future__ import annotations

import msgspec
import pytest

from smartscale.errors import ConfigError
from smartscale.yaml_file import line, parse


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    number: float = 0.0
    word: str = ""
    flag: bool = False
    inner: list[Inner] = []


def read(text: str) -> Outer:
    return parse(text, Outer, "file f", "mend it")


def test_plain_words_are_those_of_yaml_1_2() -> None:
    """In YAML 1.1, 14:00 is the number 840, off is false and 1e6 is a word."""
    assert read("{number: 1e6, word: 14:00, flag: true}") == Outer(1e6, "14:00", True)
    assert [read(f"word: {word}").word for word in ("off", "no", "on", "y", "0x1F", "1_000")] == [
        "off", "no", "on", "y", "0x1F", "1_000",
    ]  # fmt: skip
    assert [read(f"number: {number}").number for number in ("-3", ".5", "5.", "+1.5E-2")] == [
        -3,
        0.5,
        5,
        0.015,
    ]


def test_an_empty_file_has_all_defaults() -> None:
    assert read("# nothing\n") == Outer()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("number: x\n", "file f, line 1, number: expected `float`, got `str`; mend it"),
        (
            "word: a\n\ninner:\n- name: a\n- nam: b\n",
            "file f, line 5, inner[1].nam: no such field; did you mean name?",
        ),
        ("word: a\nword: b\n", "file f, line 2: not valid YAML: word is given twice; mend the line"),
        ("- a\n", "file f, line 1, top level: expected `object`, got `array`; mend it"),
        ("word: !!python/name:os.system\n", "file f, line 1: not valid YAML"),
        ("word: a\n---\nword: b\n", "file f, line 2: not valid YAML"),
        ("word: [\n", "not valid YAML"),
        ("word: \x00\n", "file f: not valid YAML"),
        ("&a [*a]\n", "top level"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert said in str(caught.value)


def test_a_field_is_found_in_the_text() -> None:
    text = "word: a\ninner:\n- name: a\n- name: b\n"
    assert [line(text, field) for field in ("word", "inner[1].name", "inner[1].missing")] == [1, 4, 4]
