"""The search for tags against jieba's own."""

from __future__ import annotations

import random

import pytest

from gsv.text.chinese import segment
from gsv.text.chinese.viterbi import Viterbi


def test_paths_are_jiebas() -> None:
    posseg = pytest.importorskip("jieba.posseg")
    tables = posseg.char_state_tab_P, posseg.start_P, posseg.trans_P, posseg.emit_P
    theirs = pytest.importorskip("jieba.posseg.viterbi").viterbi
    ours = Viterbi(posseg.trans_P)
    random.seed(8)
    seen = sorted(posseg.char_state_tab_P)
    texts = ["".join(random.choices(seen, k=random.randint(1, 9))) for _ in range(200)]
    texts += ["".join(map(chr, random.choices(range(0x4E00, 0x9FD5), k=4))) for _ in range(100)]
    texts += ["一不" * 10, "的了是在", "𠮷𠮷好", "龥龥龥"]
    for text in texts:
        assert ours(text, *tables) == theirs(text, *tables), text


def test_the_dictionary_is_jiebas() -> None:
    """Read in one go, it is what jieba makes of it line by line."""
    jieba = pytest.importorskip("jieba")
    with jieba.dt.get_dict_file() as file:
        found = segment.read_dictionary(file.read())
    frequencies, total = jieba.dt.gen_pfdict(jieba.dt.get_dict_file())
    assert found.frequencies == frequencies
    assert found.total == total
    segment.load()
    posseg = pytest.importorskip("jieba.posseg")
    table = posseg.POSTokenizer.__new__(posseg.POSTokenizer)
    table.load_word_tag(jieba.dt.get_dict_file())
    assert found.tags == table.word_tag_tab
    assert posseg.dt.word_tag_tab == found.tags
