"""Japanese: labels to phonemes, dictionaries, inputs that break OpenJTalk, upstream's results."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from golden_text import check_clean_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.errors import ConfigurationError
from gsv.text import japanese as module
from gsv.text.data_files import TextData
from gsv.text.japanese import DictionaryMissing, Japanese, find_dictionary
from gsv.text.symbols import known

FILES = ("sys.dic", "matrix.bin", "char.bin", "unk.dic")


@pytest.fixture(scope="module")
def japanese() -> Japanese:
    found = Japanese()
    try:
        found.load()
    except DictionaryMissing as error:
        pytest.skip(str(error))
    return found


def a_dictionary(folder: Path) -> Path:
    """A folder that looks like a dictionary."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).touch()
    return folder


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPEN_JTALK_DICT_DIR", raising=False)
    monkeypatch.setattr(module, "DEBIAN_DICTIONARY", tmp_path / "debian")
    monkeypatch.setattr(module, "installed_folder", lambda: tmp_path / "environment")


@pytest.mark.usefixtures("bare_machine")
def test_the_places_of_a_dictionary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DictionaryMissing, match="naist-jdic"):
        find_dictionary()
    bundled = a_dictionary(tmp_path / "bundled")
    assert find_dictionary(bundled=bundled) == bundled
    debian = a_dictionary(tmp_path / "debian")
    assert find_dictionary(bundled=bundled) == debian
    installed = a_dictionary(tmp_path / "environment" / "naist-jdic")
    assert find_dictionary(bundled=bundled) == installed
    named = a_dictionary(tmp_path / "named")
    monkeypatch.setenv("OPEN_JTALK_DICT_DIR", str(named))
    assert find_dictionary(bundled=bundled) == named
    given_folder = a_dictionary(tmp_path / "given")
    assert find_dictionary(given_folder, bundled) == given_folder


@pytest.mark.usefixtures("bare_machine")
def test_a_named_folder_must_be_a_dictionary(tmp_path: Path) -> None:
    (a_dictionary(tmp_path / "half") / "sys.dic").unlink()
    with pytest.raises(ConfigurationError, match=r"half.*sys\.dic"):
        Japanese(tmp_path / "half").phonemes("猫")


def test_a_broken_dictionary_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyopenjtalk")
    with pytest.raises(ConfigurationError, match="broken"):
        Japanese(a_dictionary(tmp_path / "broken")).load()


@pytest.mark.usefixtures("bare_machine")
def test_no_dictionary_is_an_error_and_no_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pyopenjtalk = pytest.importorskip("pyopenjtalk")
    monkeypatch.setattr(pyopenjtalk, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(DictionaryMissing):
        Japanese().phonemes("猫")


def label(phoneme: str, accent: str = "xx+xx+xx", moras: str = "xx") -> str:
    """A full-context label with the fields that are read."""
    rest = f"/B:xx-xx_xx/C:02_xx+xx/D:xx+xx_xx/E:xx_xx!xx_xx-xx/F:{moras}_1#0_xx@1_1|1_1/G:xx"
    return f"a^b-{phoneme}+c=d/A:{accent}{rest}"


def test_accent_signs_from_labels() -> None:
    # はし (chopsticks: falls after the first mora) が (next phrase)
    labels = [
        label("sil"),
        label("h", "0+1+2", "2"),
        label("a", "0+1+2", "2"),
        label("sh", "1+2+1", "2"),
        label("I", "1+2+1", "2"),
        label("g", "-1+1+2", "2"),
        label("a", "-1+1+2", "2"),
        label("N", "0+2+1", "2"),
        label("pau"),
        label("n", "0+1+1", "1"),
        label("a", "0+1+1", "1"),
        label("sil"),
    ]
    spoken = list(module._prosody([module._Label.parse(text) for text in labels]))
    assert spoken == ["h", "a", "]", "sh", "i", "#", "g", "a", "[", "N", "_", "n", "a"]


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("", ""),
        ("猫", "n e ] k o"),
        ("猫、犬。", "n e ] k o , i [ n u ."),
        ("猫 犬\n", "n e ] k o i [ n u ."),
        ("「猫」！？", "「 n e ] k o 」 ! ?"),
        ("5％", "g o [ p a a s e ] N t o"),
        ("ーー", ""),
    ],
)
def test_symbols(japanese: Japanese, text: str, symbols: str) -> None:
    assert " ".join(japanese.phonemes(text).symbols) == symbols
    assert japanese.phonemes(text).word2ph is None


def test_normalize_collapses_marks_only() -> None:
    assert Japanese().normalize("え?!…そう。。１ ％") == "え?そう。。１ ％"


@pytest.mark.parametrize(
    "run",
    [
        "ア" * 9_000,  # the fillers' buffer, 1 KiB
        "ｱ" * 2_000,
        "っシ" * 2_000,
        "漢" * 9_000,  # the input buffer, 8 KiB
        "1" * 9_000,
        "a" * 9_000,
        "ー" * 9_000,
        "々" * 3_000,
    ],
)
def test_runs_that_overflow_open_jtalk(japanese: Japanese, run: str) -> None:
    assert japanese.phonemes(f"{run}。犬").symbols[-5:] == (".", "i", "[", "n", "u")


def test_a_long_run_is_read_in_parts_whole(japanese: Japanese) -> None:
    vowels = [symbol for symbol in japanese.phonemes("ア" * 1_000).symbols if symbol == "a"]
    assert len(vowels) == 1_000


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text(japanese: Japanese, text: str) -> None:
    japanese.phonemes(japanese.normalize(text))


def test_threads(japanese: Japanese) -> None:
    texts = [f"{number}番線の電車は、雨で遅れています。" for number in range(40)]
    alone = [japanese.phonemes(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(japanese.phonemes, texts)) == alone


@pytest.mark.golden_text
def test_upstreams_results() -> None:
    data = TextData.find()
    if data.japanese_words is None:
        pytest.skip("upstream's user dictionary: python -m gsv.checkpoints.text_install")
    exact = Japanese(data.japanese, data.japanese_words)

    def answer(text: str) -> dict[str, Any]:
        normalized = exact.normalize(text)
        return {
            "norm_text": normalized,
            "phones": list(known(exact.phonemes(normalized).symbols)),
        }

    check_clean_cases("ja", answer)


def test_what_it_does_not_read() -> None:
    data = TextData.find()
    if data.japanese_words is None:
        pytest.skip("upstream's user dictionary: python -m gsv.checkpoints.text_install")
    japanese = Japanese(data.japanese, data.japanese_words)
    assert japanese.unread("今日は、Pythonで3時です。") == []
    assert japanese.unread("髙橋さん") == ["髙橋"]
    assert japanese.unread("猫😀Ж") == ["Ж"]
    assert japanese.takes("猫")
    assert not japanese.takes("Ж")
