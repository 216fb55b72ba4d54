"""TOML that strangers may have written: what is refused before Python's parser sees it."""

from __future__ import annotations

import pytest

from gsv.toml_file import parse_toml

LONG = ".".join("a" * 300_000)  # would take Python's parser more than half an hour


@pytest.mark.parametrize(
    "document",
    [
        f"{LONG} = 1",
        f"[{LONG}]",
        f"[[{LONG}]]",
        f"x = {{{LONG} = 1}}",
        f"x = {{b = 1, {LONG} = 1}}",
        f"x = [{{{LONG} = 1}}]",
        f'x = {{b = """c"""", {LONG} = "1"}}',
        f"x = {{b = '''c'''', {LONG} = '1'}}",
        f'x = {{b = "\\"", {LONG} = "1"}}',
        f"x = {{b = '\\', {LONG} = '1'}}",
        f"# it's\n{LONG} = 1",
        f'x = "# no comment"\n{LONG} = 1',
        LONG.replace("a", '"="') + " = 1",
        LONG.replace("a", "'\"'") + " = 1",
        LONG.replace("a", " a\t") + " = 1",
    ],
    ids=range(15),
)
def test_a_long_key_is_refused_at_once(document: str) -> None:
    with pytest.raises(ValueError, match=r"a key of 300,000 parts; allowed: up to 16"):
        parse_toml(document.encode())


def test_dots_in_texts_and_comments_are_nothing() -> None:
    dots = "." * 100
    document = (
        f'a = "{dots}" # {dots}\nb = \'{dots}\'\nc = """{dots}\n"\\"{dots}"""\n'
        f"d = '''{dots}'\n{dots}'''\n# {dots}\ne.f.g = [1.5, 2.5, {{h.i = '{dots}'}}]\n"
    )
    found = parse_toml(document.encode())
    assert (found["a"], found["b"]) == (dots, dots)
    assert found["c"] == f'{dots}\n""{dots}'
    assert found["d"] == f"{dots}'\n{dots}"
    assert found["e"] == {"f": {"g": [1.5, 2.5, {"h": {"i": dots}}]}}


@pytest.mark.parametrize("content", [b"x = " + b"[" * 20_000, b"x = " + b"{a=" * 20_000])
def test_what_nests_too_deep_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="nests too deep|invalid|decode|overwrite|Expected|Cannot"):
        parse_toml(content)


@pytest.mark.parametrize("content", [b"\xff", b"no toml", b"a = 1\na = 2"])
def test_what_is_no_toml_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="nests too deep|invalid|decode|overwrite|Expected|Cannot"):
        parse_toml(content)


@pytest.mark.parametrize(
    "document",
    ['a = "' + '\\"' * 200_000 + "\n", 'a = """' + '\\"\\"\\"' * 100_000,
     'a = """' + '\\"\\"\\"' * 100_000 + "\\", "a = '''" + "x'" * 200_000, "'" * 100_001],
    ids=range(5),
)  # fmt: skip
def test_a_text_that_is_not_closed_is_looked_through_once(document: str) -> None:
    """Looked for again at each quote, these would take hours."""
    with pytest.raises(ValueError, match=r"\(at (line|end)|Illegal|Unterminated|Invalid"):
        parse_toml(document.encode())
