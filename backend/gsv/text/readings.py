"""Whether texts are read as people expect, by pairs of texts that must be read alike.

    python -m gsv.text.readings FOLDER [--text-data FOLDER] [--list]

The folder holds ``pairs.tsv`` (language mode, a text as people write it, the same written so that
there is nothing to get wrong) and ``refused.tsv`` (language mode, a text of which nothing can be
read), one of them at least. A pair is read alike when its phoneme ids are the same, those of marks,
pauses and accents apart; a text is refused when it gives ``InvalidRequest``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gsv.errors import ConfigurationError, InvalidRequest
from gsv.options import LANGUAGES
from gsv.text.frontend import TextFrontend
from gsv.text.symbols import SILENT

PAIRS, REFUSED = "pairs.tsv", "refused.tsv"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a file.

    Attributes:
        place: file and line, for messages.
        language: one of ``gsv.options.LANGUAGES``.
        text: as people write it.
        plain: the same with nothing to get wrong; "" where it must be refused.
    """

    place: str
    language: str
    text: str
    plain: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: the line.
        right: whether it is as it should be.
        found: symbols of the text, or why it was refused.
        expected: symbols of the plain text; "" where the text must be refused.
    """

    case: Case
    right: bool
    found: str
    expected: str


def read_cases(folder: Path) -> list[Case]:
    """The lines of both files.

    Raises:
        ConfigurationError: no such file, or a line that is not of that form.
    """
    cases = []
    for name, fields in ((PAIRS, 3), (REFUSED, 2)):
        path = folder / name
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line.strip():
                continue
            parts = line.removesuffix("\r").split("\t")
            if len(parts) != fields or parts[0] not in LANGUAGES:
                raise ConfigurationError(
                    f"{path}: line {number}: expected {fields} fields between tabs, the first of "
                    f"them one of {', '.join(LANGUAGES)}; got {line[:60]!r}"
                )
            texts = [part.replace("\\t", "\t").replace("\\n", "\n") for part in parts[1:]]
            cases.append(Case(f"{name}:{number}", parts[0], *texts))
    if not cases:
        raise ConfigurationError(f"{folder}: neither {PAIRS} nor {REFUSED} has a line")
    return cases


def check(frontend: TextFrontend, case: Case) -> Outcome:
    """Read a case's texts."""
    found, refused = _symbols(frontend, case.text, case.language)
    if not case.plain:
        return Outcome(case, refused, found, "")
    expected, also_refused = _symbols(frontend, case.plain, case.language)
    right = not refused and not also_refused and found == expected
    return Outcome(case, right, found, expected)


def _symbols(frontend: TextFrontend, text: str, language: str) -> tuple[str, bool]:
    try:
        sentences = frontend.analyze(text, language)
    except InvalidRequest as error:
        return str(error), True
    spoken = (s for sentence in sentences for s in sentence.symbols if s not in SILENT)
    return " ".join(spoken), False


def main(arguments: list[str] | None = None) -> int:
    """Count and list what is wrong; exit code 1 if anything is, 2 if the folder can't be read."""
    parser = argparse.ArgumentParser(prog="python -m gsv.text.readings", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help=f"folder with {PAIRS} and {REFUSED}")
    parser.add_argument("--text-data", type=Path, help="text data, as `gsv prepare` lays it out")
    parser.add_argument("--list", action="store_true", help="list the right ones too")
    options = parser.parse_args(arguments)
    try:
        cases = read_cases(options.folder)
        frontend = TextFrontend(options.text_data)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    outcomes = [check(frontend, case) for case in cases]
    sys.stdout.writelines(f"{line}\n" for line in _lines(outcomes, everything=options.list))
    return 0 if all(outcome.right for outcome in outcomes) else 1


def _lines(outcomes: list[Outcome], *, everything: bool) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.right and not everything:
            continue
        case = outcome.case
        yield f"{'ok   ' if outcome.right else 'WRONG'} {case.place} {case.language} {case.text!r}"
        yield f"      {outcome.found}"
        if case.plain:
            yield f"      {outcome.expected}   ({case.plain!r})"
        elif not outcome.right:
            yield "      must be refused"
    for name in (PAIRS, REFUSED):
        of_file = [o for o in outcomes if o.case.place.startswith(name)]
        if of_file:
            yield f"{name:12s} {sum(o.right for o in of_file):5d} of {len(of_file):5d}"


if __name__ == "__main__":
    sys.exit(main())
