from __future__ import annotations

import json

import pytest

from services.shared import errors
from services.shared.errors import InternalError, SpindllError, every_error, from_wire, to_wire

CLASSES = [cls for cls in every_error() if cls is not SpindllError]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_is_rebuilt_exactly_on_the_other_side(cls: type[SpindllError]) -> None:
    error = cls("no room", param="max_tokens", retry_after_seconds=3.5, details={"free": 1})

    rebuilt = from_wire(json.loads(json.dumps(to_wire(error))))

    assert type(rebuilt) is cls
    assert vars(rebuilt) == vars(error)


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in CLASSES]

    assert len(set(codes)) == len(codes)


def test_an_unknown_code_becomes_an_internal_error_with_its_message() -> None:
    rebuilt = from_wire({"code": "from_the_future", "message": "hello"})

    assert type(rebuilt) is InternalError
    assert rebuilt.message == "hello"


def test_a_temporary_error_has_a_retry_time() -> None:
    assert errors.RunnerDied("gone").retry_after_seconds == 2.0
    assert errors.InvalidRequest("wrong").retry_after_seconds is None


def test_the_docstring_shows_every_class() -> None:
    drawing = errors.__doc__ or ""

    assert [cls.__name__ for cls in every_error() if cls.__name__ not in drawing] == []
