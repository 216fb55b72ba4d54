"""Text to sentences: punctuation runs, the cutting methods cut0 to cut5, short and long pieces.

Every function keeps upstream's results, odd ones included, because the models have heard their
training texts cut this way; ``sentences`` adds the repairs (see ``gsv.text.deviations``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MAX_SENTENCE = 510  # characters; BERT has 512 positions and takes two for itself
MIN_PIECE = 5  # shorter pieces join their neighbour
MIN_OPENING = 4  # a text whose first clause is shorter gets a mark in front

SENTENCE_MARKS = frozenset("，。？！,.?!~:：—…")  # end a clause; no 、 and no semicolon
_CLAUSE_END = re.compile("([" + re.escape("".join(sorted(SENTENCE_MARKS))) + "])")
_BREAK = re.compile("[ ;；、" + re.escape("".join(sorted(SENTENCE_MARKS))) + "]+")
_SILENT = frozenset("!?…,.- ")  # a piece of these alone is not spoken
_CUT5_MARKS = frozenset(",.;?!、，。？！：…")
_MARK_RUN = re.compile("([!?…,.-])[!?…,.-]+")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_WORD = re.compile(r"\w")
# Marks that end no clause: inside a number, a time, a range, an abbreviation, an address.
_INNER_MARK = re.compile(
    r"(?<=[\d%°元円원])[,.:~](?=[-+]?[$€£¥₩]?\d)|(?<=°C)~(?=-?\d)|(?<=[a-z0-9])\.(?=[a-z0-9])|"
    r"(?<=\b[A-Z])\.(?=[A-Z]\b)|(?<=\b[ap]\.m)\.(?=\s+[a-z0-9])|(?<=\b[ie]\.[eg])\.(?=\s)"
)
# What stands for them meanwhile; no text may hold these code points.
_MEANWHILE = dict(zip(",.:~", "\ufdd0\ufdd1\ufdd2\ufdd3", strict=True))
_BACK = str.maketrans({char: mark for mark, char in _MEANWHILE.items()})


def collapse_marks(text: str) -> str:
    """Reduce each run of ``! ? … , . -`` to its first mark; full-width marks stay."""
    return _MARK_RUN.sub(r"\1", text)


def closing_mark(language: str) -> str:
    """The full stop that upstream appends (and prefixes) in this language mode."""
    return "." if language == "en" else "。"


def close_sentence(text: str, language: str) -> str:
    """The text with a full stop, unless it ends in a clause mark already."""
    return text if text[-1:] in SENTENCE_MARKS else text + closing_mark(language)


def prompt_text(text: str, language: str) -> str:
    """The reference's transcript as one closed sentence; empty stays empty."""
    text = text.strip("\n")
    return close_sentence(text, language) if text else text


def clauses(text: str) -> list[str]:
    """Cut after every clause mark; a last clause without one gets ``。``.

    A doubled ellipsis counts as a full stop and a doubled dash as a comma, and read so.
    """
    if not text:
        return []
    text = close_sentence(text.replace("……", "。").replace("——", "，"), "zh")
    parts = _CLAUSE_END.split(text)  # clause, mark, clause, mark, ..., ""
    return [clause + mark for clause, mark in zip(parts[0::2], parts[1::2], strict=False)]


def _joined(groups: Iterable[str], silent: frozenset[str] = _SILENT) -> str:
    return "\n".join(group for group in groups if not silent.issuperset(group))


def _cut0(text: str) -> str:
    return "\n" if _SILENT.issuperset(text) else text


def _cut1(text: str) -> str:
    """Groups of four clauses; the last group, full or not, joins the one before."""
    text = text.strip("\n")
    parts = clauses(text)
    if len(parts) <= 4:
        return _joined([text])
    starts = range(0, len(parts), 4)[:-1]
    ends = [*starts[1:], len(parts)]
    return _joined("".join(parts[a:b]) for a, b in zip(starts, ends, strict=True))


def _cut2(text: str, size: int = 50) -> str:
    """Clauses gathered until a group is longer than ``size`` characters."""
    text = text.strip("\n")
    parts = clauses(text)
    if len(parts) < 2:
        return text
    groups = [""]
    for part in parts:
        if len(groups[-1]) > size:
            groups.append("")
        groups[-1] += part
    if len(groups) > 1 and len(groups[-1]) < size:
        groups[-2:] = [groups[-2] + groups[-1]]
    return _joined(groups)


def _cut3(text: str) -> str:
    return _joined(text.strip("\n").strip("。").split("。"))


def _cut4(text: str) -> str:
    return _joined(_FULL_STOP.split(text.strip("\n").strip(".")))


def _cut5(text: str) -> str:
    """Cut after every mark but the point inside a number."""
    text = text.strip("\n")
    groups, start = [], 0
    for index, char in enumerate(text):
        if char not in _CUT5_MARKS:
            continue
        number = char == "." and text[index - 1 : index].isdigit() and text[index + 1 : index + 2]
        if not (number and number.isdigit()):
            groups.append(text[start : index + 1])
            start = index + 1
    groups.append(text[start:])
    return _joined(groups, _CUT5_MARKS)


CUTS: dict[str, Callable[[str], str]] = {
    "cut0": _cut0,  # not at all
    "cut1": _cut1,  # after four clauses
    "cut2": _cut2,  # after fifty characters
    "cut3": _cut3,  # at 。
    "cut4": _cut4,  # at .
    "cut5": _cut5,  # at every mark
}


def cut(text: str, method: str) -> str:
    """Pieces of the text, one a line. ``method`` is a key of ``CUTS`` (KeyError otherwise)."""
    return CUTS[method](text)


def merge_short(pieces: list[str], threshold: int = MIN_PIECE) -> list[str]:
    """Join pieces from the left until each has ``threshold`` characters; a rest joins the last."""
    if len(pieces) < 2:
        return pieces
    merged, current = [], ""
    for piece in pieces:
        current += piece
        if len(current) >= threshold:
            merged.append(current)
            current = ""
    if current:
        last = merged.pop() if merged else ""
        merged.append(last + current)
    return merged


def split_long(text: str, limit: int = MAX_SENTENCE) -> list[str]:
    """Cut at clause marks so that parts keep the limit, as far as there are marks to cut at.

    As upstream: a run without a mark stays whole however long, and the part before it can be
    empty. ``sentences`` repairs both.
    """
    parts, current = [], ""
    for token in _CLAUSE_END.split(text):
        if len(current) + len(token) > limit:
            parts.append(current)
            current = token
        else:
            current += token
    return [*parts, current] if current else parts


def pre_segment(text: str, language: str, method: str) -> list[str]:
    """Sentences exactly as upstream cuts them; none where upstream finds no valid text."""
    text = text.strip("\n")
    if not text:
        return []
    opening = _CLAUSE_END.split(text, maxsplit=1)[0]
    if opening and len(opening.strip()) < MIN_OPENING:
        text = closing_mark(language) + text
    pieces = [piece for piece in cut(text, method).split("\n") if piece not in ("", " ")]
    found: list[str] = []
    for piece in merge_short(pieces):
        if not _WORD.search(piece):
            continue
        piece = close_sentence(piece, language)
        found += split_long(piece) if len(piece) > MAX_SENTENCE else [piece]
    return found


def sentences(text: str, language: str, method: str, *, inner_marks: bool = True) -> list[str]:
    """``pre_segment`` without empty sentences and with every sentence inside the limit.

    A run that has no clause mark to cut at is cut at its last lesser mark or space within the
    limit, or at the limit where there is none.

    Args:
        text: text without markup.
        language: one of ``gsv.options.LANGUAGES``.
        method: a key of ``CUTS``.
        inner_marks: cut at marks inside numbers and abbreviations too, as upstream does.
    """
    if not inner_marks:
        text = _INNER_MARK.sub(lambda mark: _MEANWHILE[mark.group()], text)
    cut_text = [part for piece in pre_segment(text, language, method) for part in _hard_cut(piece)]
    return cut_text if inner_marks else [part.translate(_BACK) for part in cut_text]


def _hard_cut(text: str, limit: int = MAX_SENTENCE) -> list[str]:
    parts = []
    while len(text) > limit:
        ends = [match.end() for match in _BREAK.finditer(text, 0, limit)]
        end = ends[-1] if ends else limit
        parts.append(text[:end])
        text = text[end:]
    return [part for part in [*parts, text] if part.strip()]


def halves(text: str) -> tuple[str, str]:
    """A sentence cut near its middle, after a mark or a space where there is one."""
    middle = len(text) // 2
    ends = [match.end() for match in _BREAK.finditer(text) if match.end() < len(text)]
    end = min(ends, key=lambda place: abs(place - middle), default=middle)
    return text[:end], text[end:]
