"""Write one version into every file that carries it, or check that they agree.

python tools/set_version.py            says the version; exit code 1 if two files differ
python tools/set_version.py 0.2.0      writes it
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VERSION = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"
# File patterns, and what stands before and after the version there.
PLACES = (
    ("backend/gsv/__init__.py", r'^(__version__ = ")', r'(")$'),
    ("client/gsv_client/__init__.py", r'^(__version__ = ")', r'(")$'),
    ("docker/Dockerfile", r"(gpt-sovits-triton:)", r"()\b"),
    ("docker/Dockerfile", r'(image\.version=")', r'(")'),
    ("docker/compose.yaml", r"(gpt-sovits-triton:)", r"()\b"),
    ("deploy/helm/**/Chart.yaml", r'^((?:app)?[vV]ersion: "?)', r'("?)$'),
)


def found() -> dict[str, set[str]]:
    """File to the versions in it.

    Raises:
        ValueError: a file that should carry one carries none.
    """
    versions: dict[str, set[str]] = {}
    for glob, before, after in PLACES:
        for path in sorted(ROOT.glob(glob)):
            text = path.read_text(encoding="utf-8")
            here = re.findall(f"{before}({_VERSION}){after}", text, re.MULTILINE)
            name = path.relative_to(ROOT).as_posix()
            if not here:
                raise ValueError(f"{name}: no version that looks like {before}{_VERSION}")
            versions.setdefault(name, set()).update(version for _, version, _ in here)
    return versions


def write(version: str) -> list[str]:
    """Write the version everywhere; the files."""
    if not re.fullmatch(_VERSION, version):
        raise ValueError(f"version: got {version!r}; allowed: 1.2.3, 1.2.3a1, 1.2.3b1 or 1.2.3rc1")
    for glob, before, after in PLACES:
        for path in sorted(ROOT.glob(glob)):
            text = path.read_text(encoding="utf-8")
            pattern = re.compile(f"{before}{_VERSION}{after}", re.MULTILINE)
            path.write_text(pattern.sub(rf"\g<1>{version}\g<2>", text), encoding="utf-8")
    return sorted(found())


def main(arguments: list[str]) -> int:
    """The command; its exit code."""
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        if arguments:
            sys.stdout.write("\n".join(write(arguments[0])) + "\n")
            return 0
        versions = found()
    except ValueError as error:
        sys.stderr.write(f"set_version: {error}\n")
        return 1
    everything = set().union(*versions.values())
    if len(everything) > 1:
        lines = [f"{name}: {', '.join(sorted(there))}" for name, there in versions.items()]
        sys.stderr.write("set_version: files differ\n" + "\n".join(lines) + "\n")
        return 1
    sys.stdout.write(f"{everything.pop()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
