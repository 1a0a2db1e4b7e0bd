import os

import pytest

from drhn_cli import errors
from drhn_cli.errors import DrhnError, printable


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "it broke"),
        ({"path": "a/b"}, "a/b: it broke"),
        ({"expected": "X"}, "it broke (expected X)"),
        ({"found": "Y"}, "it broke (found Y)"),
        ({"expected": "X", "found": "Y"}, "it broke (expected X, found Y)"),
        ({"hint": "mend it"}, "it broke; mend it"),
        (
            {"path": b"p", "expected": "X", "found": "Y", "hint": "mend it"},
            "p: it broke (expected X, found Y); mend it",
        ),
    ],
)
def test_message_is_one_line_and_reason_is_it_without_the_path(parts, message):
    error = DrhnError("it broke", **parts)
    assert error.message == str(error) == message
    assert error.reason == message[message.index("it broke") :]


def test_reason_keeps_a_path_that_the_problem_repeats():
    assert DrhnError("a: is a", path="a").reason == "a: is a"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("holiday/été 1.jpg", "holiday/été 1.jpg"),
        ("two\nlines\tand\x1b[31mred", "two\\nlines\\tand\\x1b[31mred"),
        (b"caf\xe9.jpg", "caf\\udce9.jpg"),
        (os.fsencode("ünï"), "ünï"),
        ("right\u202eleft", "right\\u202eleft"),
    ],
)
def test_a_path_is_shown_as_printable_text(path, shown):
    assert printable(path) == shown
    assert DrhnError("broke", path=path).message == f"{shown}: broke"
    assert DrhnError("broke", path=path).reason == "broke"


def test_foreign_text_in_a_message_is_one_line_that_a_terminal_does_not_obey():
    error = DrhnError("it broke", found="two\nlines \x1b[31m", hint="mend 'a\nb'")
    assert error.message == error.reason == "it broke (found two\\nlines \\x1b[31m); mend 'a\\nb'"


def test_every_error_for_the_user_is_a_drhn_error():
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(found) == 8
    assert all(issubclass(kind, DrhnError) for kind in found)
