"""g2pW: a tiny network of the released one's interface, which decides by the next character."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gsv.errors import ConfigurationError
from gsv.text.chinese import Chinese
from gsv.text.chinese.polyphones import G2PW, open_g2pw
from gsv.text.chinese.syllables import Syllable

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"行長走在銀家，一"]
POLYPHONES = [("行", "ㄏㄤ2"), ("行", "ㄒㄧㄥ2"), ("長", "ㄔㄤ2"), ("長", "ㄓㄤ3"), ("一", "ㄧ4")]
LABELS = sorted({sound for _, sound in POLYPHONES})
# Next token → the reading that it speaks for.
VOTES = {"長": "ㄏㄤ2", "走": "ㄒㄧㄥ2", "在": "ㄓㄤ3", "[SEP]": "ㄔㄤ2"}


def network(path: Path, one_row: bool, labels: list[str] = LABELS) -> None:
    """Write the network.

    Args:
        path: the file.
        one_row: takes all polyphones with one row of tokens, as the released file does.
        labels: the readings, or characters with their readings.
    """
    helper, types = onnx.helper, onnx.TensorProto
    votes = np.zeros((len(VOCABULARY), len(labels)), np.float32)
    for token, sound in VOTES.items():
        for column, label in enumerate(labels):
            votes[VOCABULARY.index(token), column] = 9 * label.endswith(sound)
    constants = {
        "one": np.array(1, np.int64),
        "last": np.array([1], np.int64),
        "first": np.array(0, np.int64),
        "votes": votes,
        "masked": np.array(1e4, np.float32),
        "unit": np.array(1, np.float32),
    }
    following = (
        [
            helper.make_node("Gather", ["input_ids", "first"], ["row"], axis=0),
            helper.make_node("Gather", ["row", "next"], ["token"], axis=0),
        ]
        if one_row
        else [
            helper.make_node("Unsqueeze", ["next", "last"], ["column"]),
            helper.make_node("GatherElements", ["input_ids", "column"], ["tokens"], axis=1),
            helper.make_node("Squeeze", ["tokens", "last"], ["token"]),
        ]
    )
    nodes = [
        helper.make_node("Add", ["position_ids", "one"], ["next"]),
        *following,
        helper.make_node("Gather", ["votes", "token"], ["scores"], axis=0),
        helper.make_node("Sub", ["phoneme_mask", "unit"], ["lack"]),
        helper.make_node("Mul", ["lack", "masked"], ["penalty"]),
        helper.make_node("Add", ["scores", "penalty"], ["allowed"]),
        helper.make_node("Softmax", ["allowed"], ["probs"], axis=1),
    ]
    tokens = [
        helper.make_tensor_value_info(name, types.INT64, ["rows", "tokens"])
        for name in ("input_ids", "token_type_ids", "attention_mask")
    ]
    asked = [
        helper.make_tensor_value_info(name, types.INT64, ["polyphones"])
        for name in ("char_ids", "position_ids")
    ]
    sizes = ["polyphones", len(labels)]
    mask = helper.make_tensor_value_info("phoneme_mask", types.FLOAT, sizes)
    output = helper.make_tensor_value_info("probs", types.FLOAT, sizes)
    initial = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [*tokens, mask, *asked], [output], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def data_folder(root: Path, one_row: bool = True, by_character: bool = False) -> Path:
    """A frontend's data folder with a complete ``G2PWModel``."""
    folder = root / "text_data" / "G2PWModel"
    folder.mkdir(parents=True)
    labels = sorted({f"{char} {sound}" for char, sound in POLYPHONES}) if by_character else LABELS
    network(folder / "g2pW.onnx", one_row, labels)
    (folder / "POLYPHONIC_CHARS.txt").write_text(
        "\n".join(f"{char}\t{sound}" for char, sound in POLYPHONES) + "\n", "utf-8"
    )
    (folder / "MONOPHONIC_CHARS.txt").write_text("走\tㄗㄡ3\n似\tㄗㄡ3\n家\tㄐㄧㄚ4\n", "utf-8")
    sounds = {"ㄏㄤ": "hang", "ㄒㄧㄥ": "xing", "ㄔㄤ": "chang", "ㄓㄤ": "zhang", "ㄗㄡ": "zou"}
    (folder / "bopomofo_to_pinyin_wo_tune_dict.json").write_text(json.dumps(sounds), "utf-8")
    (folder / "config.py").write_text(
        f"raise SystemExit('executed')\nuse_mask = True\nuse_char_phoneme = {by_character}\n",
        "utf-8",
    )
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return root / "text_data"


def read(data: Path, text: str) -> str:
    reader = open_g2pw(data)
    assert isinstance(reader, G2PW)
    return " ".join(s.initial + s.final + s.tone for s in reader.read(text))


@pytest.mark.parametrize("one_row", [True, False])
@pytest.mark.parametrize("by_character", [True, False])
def test_context_decides(tmp_path: Path, one_row: bool, by_character: bool) -> None:
    data = data_folder(tmp_path, one_row, by_character)
    assert read(data, "行长在行走,") == "hang2 zhang3 zai4 xing2 zou3 ,"
    assert read(data, "长.行长") == "chang2 . hang2 chang2"


def test_what_the_network_is_not_asked(tmp_path: Path) -> None:
    """一 is never asked about; 家 has a sound that can't be written, 似 an overruled one."""
    assert read(data_folder(tmp_path), "一家似") == "i1 jia1 shi4"


def test_the_context_is_cropped_and_long_stretches_are_cut(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    reading = read(data, "走" * 600 + "行走" + "走" * 600).split()
    assert len(reading) == 1202
    assert reading[600:602] == ["xing2", "zou3"]


def test_corrections_overrule_the_network(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    (data / "upstream").mkdir()
    (data / "upstream" / "polyphonic.rep").write_text(
        "行走: ['xing2','zou4']\n长: ['chang3']\n", "utf-8"
    )
    (data / "G2PWModel" / "polyphonic-fix.rep").write_text("行走: ['hang2', 'zou3']\n", "utf-8")
    reader = open_g2pw(data)
    assert reader is not None
    zhang = Syllable("zh", "ang", "3")
    assert reader.correct("行走", [zhang, zhang]) == [
        Syllable("h", "ang", "2"),
        Syllable("z", "ou", "3"),
    ]
    assert reader.correct("行长", [zhang, zhang]) == [zhang, Syllable("ch", "ang", "3")]


def test_it_is_used_where_it_is(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    with_model, without = Chinese(data), Chinese(tmp_path)
    assert without.phonemes("长").symbols == ("zh", "ang3")
    assert with_model.phonemes("长").symbols == ("ch", "ang2")
    assert with_model.phonemes("长", {0: "zhang4"}).symbols == ("zh", "ang4")
    assert open_g2pw(tmp_path) is None
    assert open_g2pw(None) is None


def test_the_vocabulary_of_the_frontends_bert(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    (tmp_path / "bert").mkdir()
    (data / "G2PWModel" / "vocab.txt").rename(tmp_path / "bert" / "vocab.txt")
    assert read(data, "行走") == "xing2 zou3"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("g2pW.onnx", "no network"),
        ("POLYPHONIC_CHARS.txt", "行 ㄏㄤ2\n"),
        ("MONOPHONIC_CHARS.txt", None),
        ("bopomofo_to_pinyin_wo_tune_dict.json", "[]"),
        ("config.py", "use_mask = ("),
        ("vocab.txt", "[UNK]\n"),
        ("polyphonic.rep", "行走: [open('x')]x\n"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str | None) -> None:
    data = data_folder(tmp_path)
    path = data / "G2PWModel" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content, "utf-8")
    with pytest.raises(ConfigurationError, match=name.replace(".", r"\.")):
        Chinese(data).load()
