"""English: against the libraries that upstream uses, and against rules."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from golden_text import text_data_dir

from gsv.text.data_files import TextData, package_folder
from gsv.text.english import English, numbers, possessive, tokens
from gsv.text.english.compounds import CompoundSplitter
from gsv.text.english.normalizer import normalize
from gsv.text.english.placeholders import Placeholders
from gsv.text.english.tagger import Tagger


@pytest.fixture(scope="module")
def english() -> English:
    data = TextData.find(text_data_dir())
    g2p_en, wordsegment = package_folder("g2p_en"), package_folder("wordsegment")
    assert g2p_en is not None
    assert wordsegment is not None
    return English(g2p_en, wordsegment, data.upstream, data.cmudict, data.names, data.tagger)


@pytest.fixture(scope="module")
def inflect() -> Any:
    return pytest.importorskip("inflect").engine()


def some_numbers() -> list[str]:
    random.seed(5)
    long = [str(random.randrange(10 ** random.randrange(1, 36))) for _ in range(400)]
    return [*map(str, [*range(130), *range(990, 1012), *range(1095, 1112), 2000, 2009]), *long]


def test_numbers_are_inflects(inflect: Any) -> None:
    for digits in some_numbers():
        ordinal = inflect.ordinal(digits)
        assert numbers.cardinal(digits) == inflect.number_to_words(digits, andword="")
        assert numbers.cardinal(digits, with_and=True) == inflect.number_to_words(digits)
        assert digits + numbers.ordinal_suffix(digits) == ordinal
        assert numbers.ordinal(digits) == inflect.number_to_words(ordinal)


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("1000", "one thousand"),
        ("1001", "ten oh one"),
        ("1900", "nineteen hundred"),
        ("1999", "nineteen ninety-nine"),
        ("2000", "two thousand"),
        ("2009", "two thousand nine"),
        ("2010", "twenty ten"),
        ("3000", "three thousand"),
        ("007", "seven"),
        ("1" + "0" * 36, "one" + " zero" * 36),
    ],
)
def test_counted(digits: str, words: str) -> None:
    assert numbers.counted(digits) == words


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("(5$)", "five dollars"),  # upstream raises
        (",5£", "five pounds"),  # upstream raises
        ("$1,234.5", "twelve thirty-four dollars and fifty cents"),
        ("1.50.20$", "one point five zero.twenty dollars"),
        ("0:00 and 12:30", "zero o'clock a.m. and twelve thirty p.m."),
        ("1m 2m 1.0m", "one meter two meters one point zero meters"),
        ("1/2 3/2 2/1 5/8", "one half three halves two five eighths"),
        ("21st 112th", "twenty-first one hundred and twelfth"),
        ("2 x 3", "two x three"),
        ("a + b = c", "a plus b Equals c"),
        ("iPhone OK", "i Phone O K"),
    ],
)
def test_normalize(text: str, spoken: str) -> None:
    assert normalize(text) == spoken


def test_ten_thousand_digits_are_read() -> None:
    assert len(normalize("7" * 10_000).split()) == 10_000


def test_tokens_are_tweet_tokens() -> None:
    tokenize = pytest.importorskip("nltk.tokenize.casual").TweetTokenizer().tokenize
    random.seed(6)
    for _ in range(4_000):
        text = "".join(random.choices("abAZe  ''..,?!--xyz", k=random.randint(0, 16)))
        assert tokens(text) == tokenize(text), text


def test_tags_are_nltks() -> None:
    folder = TextData.find(text_data_dir()).tagger
    if folder is None:
        pytest.skip("no tagger: set GSV_TEXT_DATA")
    theirs = pytest.importorskip("nltk.tag.perceptron").PerceptronTagger(load=False)
    parts = {
        part: json.loads((folder / f"{folder.name}.{part}.json").read_text())
        for part in ("weights", "tagdict", "classes")
    }
    theirs.model.weights, theirs.tagdict = parts["weights"], parts["tagdict"]
    theirs.classes = theirs.model.classes = set(parts["classes"])
    ours = Tagger(folder)
    for sentence in (
        "He read the book yesterday , and I will read it tomorrow .",
        "The well-known record was n't meant to record 1984 or 3 things !",
        "I object to that object - being here ?",
    ):
        words = sentence.split()
        assert ours.tag(words) == [tag for _, tag in theirs.tag(words)]


def test_compounds_are_wordsegments() -> None:
    wordsegment = pytest.importorskip("wordsegment")
    wordsegment.load()
    ours = CompoundSplitter(Path(wordsegment.__file__).parent)
    random.seed(7)
    known = sorted(wordsegment.UNIGRAMS)[::97]
    words = ["".join(random.choices(known, k=3)) for _ in range(60)]
    words += ["".join(random.choices("etaoinshr", k=random.randint(1, 20))) for _ in range(60)]
    for word in [*words, "aaaaaaaaaaaaaaaaaaaa", "thequickbrownfox" * 18, "doggo's", ""]:
        assert ours.split(word) == wordsegment.segment(word), word


@pytest.mark.parametrize(
    ("phones", "ending"),
    [("B AE1 T", "S"), ("B AO1 S", "AH0 Z"), ("D AO1 G", "Z"), ("", "Z")],
)
def test_possessive(phones: str, ending: str) -> None:
    assert possessive(tuple(phones.split())) == (*phones.split(), *ending.split())


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("A", "EY1"),
        ("a", "AH0"),
        ("xq", "EH1 K S K Y UW1"),
        ("Rock 'n' roll", "R AA1 K - EH1 N - R OW1 L"),
        ("They live near a live venue", "DH EY1 L AY1 V N IH1 R AH0 L AY1 V V EH1 N Y UW0"),
    ],
)
def test_phonemes(english: English, text: str, symbols: str) -> None:
    if text_data_dir() is None:
        pytest.skip("needs upstream's lexicon: set GSV_TEXT_DATA")
    assert english.phonemes(normalize(text)).symbols == tuple(symbols.split())


def test_without_any_dictionary_letters_are_read(tmp_path: Path) -> None:
    g2p_en, wordsegment = package_folder("g2p_en"), package_folder("wordsegment")
    assert g2p_en is not None
    assert wordsegment is not None
    bare = English(g2p_en, wordsegment)
    assert bare.phonemes("x y").symbols == ("EH1", "K", "S", "W", "AY1")
    assert len(bare.phonemes("hello there").symbols) > 4


def test_placeholders_differ_from_the_text() -> None:
    words = Placeholders("Zqa zqq")
    made_up = [words.placeholder(str(number), ("K",)) for number in range(60)]
    assert len(set(made_up)) == 60
    assert all(word not in "zqa zqq" for word in made_up)
    assert words.restored(" ".join(made_up)) == " ".join(map(str, range(60)))
