"""What errors echo: gRPC carries a message in trailers, which are often limited to 8 kB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gsv.errors import InvalidRequest, shown
from gsv.options import TEXT_LIMIT, check_choice, check_range, check_seed, check_text
from gsv.stages.arrays import check_counts
from gsv.stages.speech import PublicRequest

MOST = 1_000  # characters of a message
NESTED: Any = "x"
for _ in range(2_000):
    NESTED = [NESTED] * 3


@pytest.mark.parametrize(
    "value",
    ["klingon", "", 5, -1, 1.5, float("nan"), True, None, [1, 2], ["seed"], (1,), {"a": "b"}, b"x",
     "it's", '"', "重庆", "\udcff", 2**63, {3}],
    ids=repr,
)  # fmt: skip
def test_what_is_short_is_shown_whole(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, "\u2028" * 1_000_000, b"\xff" * 1_000_000, 10**400, -(10**400), 16**5_000,
     list(range(100_000)), [["x" * 1_000] * 1_000] * 1_000, NESTED, (10**5_000,),
     {f"k{n}": "x" * 100 for n in range(10_000)}, {"x" * 10_000: 16**5_000}, set(range(10_000)),
     np.zeros(1_000_000)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_long_is_cut(value: Any) -> None:
    text = shown(value)
    assert 0 < len(text) <= 200
    assert text.isprintable() or isinstance(value, np.ndarray)


def test_a_huge_number_is_shown_by_its_size() -> None:
    assert shown(10**400) == "a whole number of some 401 digits"
    assert shown(-(10**400)) == "a negative whole number of some 401 digits"
    assert shown(10**150) == repr(10**150)


def test_the_usual_message_is_bounded() -> None:
    assert str(InvalidRequest.value("TOP_K", 0, "from 1")) == "TOP_K: got 0; allowed: from 1"
    assert len(str(InvalidRequest.value("LANGUAGE", "x" * 1_000_000, "auto"))) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("language", "x" * 1_000_000),
        ("split_method", "x" * 1_000_000),
        ("reference_language", "x" * 1_000_000),
        ("text", " " * 1_000_000),
        ("text", "\u2028" * 1_000_000),
        ("seed", 10**5_000),
        ("top_k", 10**5_000),
        ("top_p", 10**400),
    ],
    ids=lambda value: value[:10] if isinstance(value, str) else "huge",
)
def test_a_request_is_refused_briefly(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field.upper()}: ") as caught:
        PublicRequest(**{"text": "Hello.", field: value})
    assert len(str(caught.value)) < MOST


def test_other_checks_are_brief() -> None:
    counts = np.ones(100_000, np.int32)
    for check in (
        lambda: check_choice("LANGUAGE", "\u2028" * 100_000, ("auto",)),
        lambda: check_range("SPEED", 10**400),
        lambda: check_seed(-(10**400)),
        lambda: check_counts("TOKEN_COUNTS", counts, 1, "TOKENS"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            check()  # type: ignore[no-untyped-call]
        assert len(str(caught.value)) < MOST


def test_a_text_is_measured_before_it_is_read() -> None:
    """Blank ones included: nobody looks for a word in a megabyte of spaces."""
    check_text("TEXT", "a" * TEXT_LIMIT)
    with pytest.raises(InvalidRequest, match="TEXT: got 10001 characters; allowed: up to 10000"):
        check_text("TEXT", " " * (TEXT_LIMIT + 1))
    with pytest.raises(InvalidRequest, match="at least one character") as caught:
        check_text("TEXT", "\u2028" * TEXT_LIMIT)
    assert len(str(caught.value)) < MOST
