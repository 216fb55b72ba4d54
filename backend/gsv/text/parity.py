"""Parity with upstream's front end on cases that were recorded from it.

    python -m gsv.text.parity FOLDER [--text-data FOLDER] [--packages-only] [--list]

The texts are read in the reading ``upstream``. A case counts as exact when its phoneme ids (and
where there are any, its counts of phonemes per character) are all equal; splitting and marks are
compared as text. Three kinds of cases are counted apart: those that upstream raised on, those that
were recorded with a substitute for data which the recorder did not have, and those that differ on
purpose (``gsv.text.deviations``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsv.errors import InvalidRequest
from gsv.text import split
from gsv.text.data_files import TextData
from gsv.text.deviations import DEVIATIONS
from gsv.text.frontend import TextFrontend
from gsv.text.symbols import SILENT, symbol_ids
from gsv.text.types import Segment, Sentence

Case = dict[str, Any]
Answer = tuple[object, Any]  # ours, upstream's
_RAISED = object()  # in place of upstream's answer
_REFUSED = object()  # in place of ours


@dataclass
class CaseCount:
    """Cases counted together."""

    exact: int = 0
    total: int = 0

    def add(self, equal: bool) -> None:
        self.exact += equal
        self.total += 1

    @property
    def percent(self) -> float:
        """Share of exact cases; 100 where there are none."""
        return 100 * self.exact / self.total if self.total else 100.0

    def __str__(self) -> str:
        return f"{self.exact:5d} of {self.total:5d}  {self.percent:6.2f} %"


@dataclass
class Report:
    """The cases of one file.

    Attributes:
        name: the file's, without its ending.
        cases: those that count.
        modes: the same by language mode.
        substitutes: cases recorded with a substitute.
        raised: cases that upstream raised on.
        on_purpose: ids of cases that differ on purpose.
        mismatches: id, text, ours and upstream's of every other case that differs, substitutes
            included.
    """

    name: str
    cases: CaseCount = field(default_factory=CaseCount)
    modes: dict[str, CaseCount] = field(default_factory=dict)
    substitutes: CaseCount = field(default_factory=CaseCount)
    raised: int = 0
    on_purpose: list[str] = field(default_factory=list)
    mismatches: list[tuple[str, str, object, object]] = field(default_factory=list)

    def line(self) -> str:
        """One line: exact matches, total, percentage, and what is counted apart."""
        apart = []
        if self.substitutes.total:
            apart.append(f"substitutes {self.substitutes.exact} of {self.substitutes.total}")
        if self.raised:
            apart.append(f"upstream raised {self.raised}")
        if self.on_purpose:
            apart.append(f"on purpose {len(self.on_purpose)}")
        return f"{self.name:12s} {self.cases}" + (f"  ({', '.join(apart)})" if apart else "")


def compare(frontend: TextFrontend, path: Path) -> Report:
    """Run the cases of one file; a case that upstream raised on must only not raise here."""
    report = Report(path.stem)
    answers = _comparison(path.stem)
    with path.open(encoding="utf-8") as lines:
        for case in map(json.loads, lines):
            ours, theirs = answers(frontend, case)
            _count(report, case, ours, theirs)
    return report


def _count(report: Report, case: Case, ours: object, theirs: Any) -> None:
    if theirs is _RAISED:
        report.raised += 1
        return
    text = str(case.get("text", ""))
    mode = str(case.get("lang", ""))
    if ours is _REFUSED:
        # Text of which nothing but marks is read is refused here.
        silent = set(symbol_ids(SILENT))
        if all(isinstance(ids, list) and silent.issuperset(ids) for ids in theirs):
            report.on_purpose.append(case["id"])
            return
    if ours != theirs and any(d.can_show(text, mode) for d in DEVIATIONS):
        report.on_purpose.append(case["id"])
        return
    if str(case.get("oracle", "")).startswith("reference-substitute"):
        report.substitutes.add(ours == theirs)
    else:
        report.cases.add(ours == theirs)
        if _comparison(report.name) is _sentence:
            report.modes.setdefault(case["lang"], CaseCount()).add(ours == theirs)
    if ours != theirs:
        report.mismatches.append((case["id"], text, ours, theirs))


def _comparison(name: str) -> Callable[[TextFrontend, Case], Answer]:
    if name.endswith("_clean"):
        return _segment
    return {
        "cut": _cut,
        "pre_seg": _pre_segment,
        "punct": _marks,
        "helpers": _helper,
        "preprocess": _text,
    }.get(name, _sentence)


def _sentence(frontend: TextFrontend, case: Case) -> Answer:
    sentence = frontend.read(case["text"], case["lang"])
    if "error" in case:
        return None, _RAISED
    return _spoken(sentence), (case["ids"], case["word2ph"])


def _spoken(sentence: Sentence) -> tuple[list[int], list[int] | None]:
    """Ids, and symbols per character where every piece has them."""
    counts: list[int] | None = []
    for piece in sentence.pieces:
        counts = None if counts is None or piece.word2ph is None else [*counts, *piece.word2ph]
    return list(sentence.ids), counts


def _segment(frontend: TextFrontend, case: Case) -> Answer:
    piece = frontend.segment(Segment(case["lang"], case["text"]))
    if "error" in case:
        return None, _RAISED
    counts = None if piece.word2ph is None else list(piece.word2ph)
    return (list(piece.ids), counts), (case["ids"], case["word2ph"])


def _text(frontend: TextFrontend, case: Case) -> Answer:
    theirs = _RAISED if "error" in case["result"] else [f["ids"] for f in case["result"]["out"]]
    try:
        sentences = frontend.analyze(case["text"], case["lang"], case["method"])
    except InvalidRequest:  # nothing to speak
        return ([] if theirs == [] else _REFUSED), theirs
    return [list(s.ids) for s in sentences], theirs


def _cut(frontend: TextFrontend, case: Case) -> Answer:
    results = {method: case[method] for method in split.CUTS if "out" in case[method]}
    ours = {method: split.cut(case["text"], method) for method in split.CUTS}
    return (
        {method: ours[method] for method in results},
        {method: result["out"] for method, result in results.items()},
    )


def _pre_segment(frontend: TextFrontend, case: Case) -> Answer:
    ours, theirs = [], []
    for key, text in (("result", case["text"]), ("result_after_consecutive", case["consecutive"])):
        pieces = split.pre_segment(text, case["lang"], case["method"])
        if "out" in case[key]:
            ours.append(pieces)
            theirs.append(case[key]["out"])
    return (ours, theirs) if theirs else (None, _RAISED)


def _helper(frontend: TextFrontend, case: Case) -> Answer:
    ours: object
    if "texts" in case:
        ours = split.merge_short(case["texts"], case["threshold"])
    elif "max_len" in case:
        ours = split.split_long(case["text"], case["max_len"])
    else:
        ours = split.prompt_text(case["prompt_text"], case["lang"])
    return ours, case["out"]


def _marks(frontend: TextFrontend, case: Case) -> Answer:
    """Repeated marks and normalisation; upstream's inner steps are not ours."""
    text = case["text"]
    ours: dict[str, object] = {"textpreprocessor_consecutive": split.collapse_marks(text)}
    for language in ("zh", "yue", "en", "ja"):
        key = f"{language}_text_normalize"
        normalized = frontend.segment(Segment(language, text)).norm_text
        if isinstance(case[key], str):
            ours[key] = normalized
        elif "out" in case[key]:
            ours[key] = {"out": normalized}
    return ours, {key: case[key] for key in ours}


def main(arguments: list[str] | None = None) -> int:
    """Count, and list on request; exit code 1 if a case differs."""
    parser = argparse.ArgumentParser(prog="python -m gsv.text.parity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="recorded cases, *.jsonl")
    parser.add_argument("--text-data", type=Path, help="text data, as `gsv prepare` lays it out")
    parser.add_argument("--packages-only", action="store_true", help="use no data but packages'")
    parser.add_argument("--modes", action="store_true", help="count each language mode as well")
    parser.add_argument("--list", action="store_true", help="list every case that differs")
    options = parser.parse_args(arguments)
    data = TextData.of_packages() if options.packages_only else options.text_data
    frontend = TextFrontend(data, reading="upstream")
    different = 0
    for path in sorted(options.folder.glob("*.jsonl")):
        report = compare(frontend, path)
        different += len(report.mismatches)
        sys.stdout.writelines(f"{line}\n" for line in _lines(report, options))
    return 1 if different else 0


def _lines(report: Report, options: argparse.Namespace) -> Iterator[str]:
    yield report.line()
    if options.modes and len(report.modes) > 1:
        for mode, tally in sorted(report.modes.items()):
            yield f"  {mode:10s} {tally}"
    if options.list:
        for name, text, ours, theirs in report.mismatches:
            yield f"  {name} {text[:60]!r}"
            yield f"    here     {ours}"
            yield f"    upstream {theirs}"
        for name in report.on_purpose:
            yield f"  {name} differs on purpose"


if __name__ == "__main__":
    sys.exit(main())
