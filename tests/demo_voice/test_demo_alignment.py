"""Times of the frontend's phonemes from those of a teacher."""

from __future__ import annotations

import pytest
from alignment import align


def test_equal_phones_keep_their_ends() -> None:
    phones = ["pau", "w", "eh", "l", "pau"]
    assert align(phones, [0.1, 0.2, 0.3, 0.4, 0.9], ["W", "EH1", "L", "."]) == [0.2, 0.3, 0.4, 0.9]


def test_a_mark_inside_takes_the_pause() -> None:
    phones = ["pau", "n", "ow", "pau", "ay", "pau"]
    ends = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert align(phones, ends, ["N", "OW1", ",", "AY1", "."]) == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_mark_in_front_takes_the_silence() -> None:
    phones = ["pau", "ih", "z", "pau"]
    assert align(phones, [0.1, 0.2, 0.3, 0.6], [".", "IH1", "Z", "?"]) == [0.1, 0.2, 0.3, 0.6]


@pytest.mark.parametrize(
    ("phones", "symbols", "wanted"),
    [
        # The teacher's schwa and its r are one phoneme of ours.
        (["d", "ax", "r", "z"], ["D", "ER0", "Z"], [0.2, 0.4, 0.5]),
        # Two phonemes share one phone of the teacher.
        (["y", "uw"], ["Y", "IY0", "UW1"], None),
        (["k", "ao", "t"], ["K", "AA1", "T"], [0.2, 0.3, 0.4]),
    ],
)
def test_other_phones(phones: list[str], symbols: list[str], wanted: list[float] | None) -> None:
    ends = [0.1 * (n + 1) for n in range(len(phones) + 2)]
    found = align(["pau", *phones, "pau"], ends, [*symbols, "."])
    assert found is not None
    assert found == sorted(found)
    assert found[-1] == pytest.approx(ends[-1])
    if wanted is not None:
        assert found[:-1] == pytest.approx(wanted)


def test_other_words_have_no_alignment() -> None:
    phones = ["pau", "b", "r", "eh", "d", "pau"]
    ends = [0.1 * n for n in range(1, 7)]
    assert align(phones, ends, ["M", "IH1", "L", "K", "S", "."]) is None


def test_another_number_of_pauses_has_no_alignment() -> None:
    phones = ["pau", "n", "ow", "pau", "ay", "pau"]
    assert align(phones, [0.1 * n for n in range(1, 7)], ["N", "OW1", "AY1", "."]) is None
