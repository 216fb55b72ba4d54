"""Files made to take time or memory, or to bring up errors that nobody expects."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from checkpoints.files import HParams, save, save_pickle
from golden import sovits_config
from gpt_models import golden_config
from voices.voice_files import make_voice

from gsv.checkpoints import archive, reader, unpickle, voice_weights
from gsv.checkpoints.convert import convert_gpt, shortened
from gsv.checkpoints.lora import check_lora
from gsv.checkpoints.reader import Checkpoint, read_checkpoint
from gsv.errors import CheckpointError, VoiceError
from gsv.models.quantizer import Quantizer
from gsv.stages.reference_encoder import ReferenceEncoderStage
from gsv.voices import VoiceFolder
from gsv.voices.failures import Failures
from gsv.voices.metrics import VoiceMetrics

PROTO, STOP, REDUCE, POP = b"\x80\x02", b".", b"R", b"0"
MESSAGE = 1_000  # characters that are enough for any message, beside the path
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
    b"X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\0K\x01\x85K\x01\x85\x89}tR"
)
FLOAT = b"\0" * 4


def text(value: str) -> bytes:
    """The opcode that puts a string on the stack."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def big(size: int = 4_000) -> bytes:
    """The opcode for a number of so many bytes."""
    return b"\x8b" + struct.pack("<i", size) + b"\x7f" * size


def nested(depth: int) -> bytes:
    """A list that holds a list twice, which holds a list twice ...: 2^depth elements as text."""
    program = b"]q\0"
    for level in range(depth):
        last = bytes([level])
        program += POP + b"]h" + last + b"ah" + last + b"aq" + bytes([level + 1])
    return program


def as_text_bomb(call: bytes) -> bytes:
    """A pickle that passes the nested list as the one argument of ``call``."""
    return PROTO + call + nested(18) + b"\x85" + REDUCE + STOP


def read(program: bytes) -> Any:
    return unpickle.unpickle(io.BytesIO(program)).value


def refused(program: bytes, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(program)
    message = str(caught.value)
    assert len(message) < MESSAGE
    for word in words:
        assert word in message


# Nested values as text


@pytest.mark.parametrize("name", ["Path", "PosixPath", "PureWindowsPath"])
def test_paths_are_made_of_strings_only(name: str) -> None:
    refused(as_text_bomb(f"cpathlib\n{name}\n".encode()), "damaged", "path")
    refused(PROTO + b"cpathlib\nPath\nK\x01\x85R.", "path")


@pytest.mark.parametrize("stack", [nested(18) + text("x"), text("x") + nested(18), b"K\x01K\x02"])
def test_names_are_strings_only(stack: bytes) -> None:
    refused(PROTO + stack + b"\x93.", "damaged", "name")


def test_a_base_class_is_a_name_only() -> None:
    start = b"ccopyreg\n_reconstructor\n(cutils\nHParams\n"
    refused(PROTO + start + nested(18) + b"NtR.", "damaged")
    refused(PROTO + start + text("builtins.object") + b"NtR.", "damaged")
    assert read(PROTO + start + b"cbuiltins\nobject\nNtR.") == {}


def test_names_of_modules_are_short() -> None:
    assert read(b"\x80\x02ca.fork.of.utils\nHParams\n)R.") == {}
    long = "x." * 5_000 + "utils"
    refused(PROTO + f"c{long}\nHParams\n".encode() + b")R.", "refused")


# Copies without end


def repeated(call: bytes, argument: bytes, times: int) -> bytes:
    """A pickle that passes the same argument to a call again and again; 7 bytes each time."""
    start = PROTO + call + b"q\0" + POP + argument + b"\x85q\x01" + POP
    return start + b"h\0h\x01R0" * times + b"N."


@pytest.fixture
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "COPY_LIMIT", 10_000)


@pytest.mark.usefixtures("few_copies")
def test_copies_of_pairs_are_counted() -> None:
    pairs = b"](" + b"".join(text(str(i)) + b"N\x86" for i in range(100)) + b"e"
    read(repeated(b"ccollections\nOrderedDict\n", pairs, 50))
    refused(repeated(b"ccollections\nOrderedDict\n", pairs, 200), "copies", "10,000")


@pytest.mark.usefixtures("few_copies")
def test_copies_of_attributes_are_counted() -> None:
    state = b"}(" + b"".join(text(str(i)) + b"N" for i in range(100)) + b"uq\0" + POP
    start = PROTO + state + b"cutils\nHParams\nq\x01" + POP
    read(start + b"h\x01)Rh\0b0" * 50 + b"N.")
    refused(start + b"h\x01)Rh\0b0" * 200 + b"N.", "copies")


@pytest.mark.usefixtures("few_copies")
def test_copies_of_arguments_and_paths_are_counted() -> None:
    refused(repeated(b"cpathlib\nPath\n", text("x" * 1_000), 20), "copies")
    many = b"(" + text("x") * 1_000 + b"tq\x01" + POP
    refused(PROTO + many + b"ctorch._utils\n_rebuild_parameter\nq\0" + POP + b"h\0h\x01R0" * 20
            + b"N.", "copies")  # fmt: skip


def test_the_length_of_a_path_is_bounded() -> None:
    assert read(repeated(b"cpathlib\nPath\n", text("x" * 4_000), 2)) is None
    refused(repeated(b"cpathlib\nPath\n", text("x" * 5_000), 1), "path", "4,096")
    parts = b"(" + text("x") * 3_000 + b"t"
    refused(PROTO + b"cpathlib\nPath\n" + parts + b"R.", "path")


@pytest.mark.parametrize("argument", [text("abc"), b"](" + b"K\x01" * 9 + b"e", b"}", b"K\x01"])
def test_shapes_have_few_dimensions(argument: bytes) -> None:
    refused(repeated(b"ctorch\nSize\n", argument, 1), "damaged", "shape")


@pytest.mark.parametrize("pairs", [text("ab"), b"}" + text("ab") + b"Ns"])
def test_pairs_come_as_a_list(pairs: bytes) -> None:
    refused(repeated(b"ccollections\nOrderedDict\n", pairs, 1), "damaged")


def test_long_keys_are_refused() -> None:
    # Each lookup of an equal key compares all of it.
    refused(PROTO + b"}" + text("x" * 5_000) + b"Ns.", "key")
    refused(PROTO + b"}B" + struct.pack("<I", 5_000) + b"x" * 5_000 + b"Ns.", "key")
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("9" * 5_000) + text("cpu") + b"K\1"
    refused(PROTO + b"(" + storage + b"tQ.", "storage")


def test_honest_values_are_read_as_ever(tmp_path: Path) -> None:
    config = HParams(shape=torch.Size([1, 2]), where=PurePosixPath("a/b"), pairs=OrderedDict(c=1))
    content = {"weight": {"a": torch.ones(2)}, "config": config, "step": (1 << 64) - 1}
    found = read_checkpoint(save(content, tmp_path / "a.pth"))
    assert found.config == {"shape": [1, 2], "where": "a/b", "pairs": {"c": 1}}
    assert found.extra == {"step": (1 << 64) - 1}


def test_a_storage_off_its_place_is_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    view = archive._view
    monkeypatch.setattr(archive, "_view", lambda *given: made.append(given) or view(*given))
    big = torch.zeros(1_000)
    content = {"weight": {f"t{i}": big[i : i + 1] for i in range(50)}}
    for legacy in (False, True):
        made.clear()
        read_checkpoint(save(content, tmp_path / "a.pth", legacy=legacy))
        assert len(made) == 1


# Huge numbers


def test_huge_numbers_are_refused() -> None:
    refused(PROTO + big() + STOP, "31,999 bits")
    refused(b"L" + b"9" * 40 + b"L\n.", "bits")
    refused(b"I" + b"9" * 40 + b"\n.", "bits")
    refused(b"L" + b"9" * 5_000 + b"L\n.", "damaged")
    assert read(b"\x80\x02\x8a\x09" + b"\xff" * 8 + b"\0.") == (1 << 64) - 1


@pytest.mark.parametrize(
    "program",
    [
        b"}(" + big() + TENSOR + b"u.",
        b"}(" + text("weight") + b"}(" + text("a") + TENSOR + b"u"
        + text("config") + b"}(" + big() + b"K\1uu.",
        b"}(" + text("a.lora_A.x") + TENSOR + text("lora_rank") + big() + b"u.",
    ],
)  # fmt: skip
def test_files_with_huge_numbers_are_refused(tmp_path: Path, program: bytes) -> None:
    path = save_pickle(PROTO + program, tmp_path / "a.pth", {"0": FLOAT})
    for call in (lambda: read_checkpoint(path),
                 lambda: voice_weights.read_sovits(path, sovits_config("tiny"))):  # fmt: skip
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: .*bits"):
            call()


HUGE = [1 << 40_000, [[1 << 40_000]], ["x" * 100_000] * 1_000, {"x" * 100_000: 1}]
HUGE_NAMES = ["number", "nested", "list", "key"]


@pytest.mark.parametrize("rank", HUGE, ids=HUGE_NAMES)
def test_any_rank_can_be_told(rank: object) -> None:
    with pytest.raises(CheckpointError, match="lora_rank is .*; allowed: 1 to 128") as caught:
        check_lora(Path("x"), rank, {}, {}, sovits_config("tiny"))
    assert len(str(caught.value)) < MESSAGE


@pytest.mark.parametrize("number", HUGE, ids=HUGE_NAMES)
def test_any_number_of_a_configuration_can_be_told(number: object) -> None:
    weight = torch.zeros(732, 8)
    weights = {"model.ar_text_embedding.word_embeddings.weight": weight}
    given = Checkpoint(Path("x"), weights, {"model": {"EOS": number}}, "", "", "", "weight", {})
    with pytest.raises(CheckpointError, match="model.EOS is .*; allowed: whole numbers") as caught:
        convert_gpt(given)
    assert len(str(caught.value)) < MESSAGE


def test_lists_of_names_are_bounded() -> None:
    assert shortened(["a", "b"]) == "a, b"
    assert len(shortened(["x" * 100_000] * 7)) < 2 * MESSAGE
    assert shortened(["x" * 100_000] * 7).endswith(" and 2 more")


# Archives


def archive_of(count: int, path: Path, comment: bytes = b"") -> Path:
    """A zip archive that is nothing but a directory of so many entries, and says that it has one"""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    data = b"PK\3\4" + bytes(30) + entry * count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) * count, 34, len(comment))
    path.write_bytes(data + end + comment)
    return path


@pytest.mark.parametrize("comment", [b"", b"x"])
def test_a_long_directory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comment: bytes
) -> None:
    made = []
    info = zipfile.ZipInfo
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *given: made.append(1) or info(*given))
    path = archive_of(400_000, tmp_path / "a.pth", comment)
    with pytest.raises(CheckpointError, match="directory of 18,800,000 bytes; at most .* allowed"):
        read_checkpoint(path)
    assert not made
    path = archive_of(archive.ENTRY_LIMIT + 1, tmp_path / "b.pth", comment)
    with pytest.raises(CheckpointError, match="entries; at most"):
        read_checkpoint(path)


# Safetensors


def header_of(header: dict[str, Any], path: Path, data: bytes = FLOAT) -> Path:
    """A safetensors file with any header."""
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def marked(mark: str, path: Path, kind: str = "F32", shape: tuple[int, ...] = (1,),
           data: bytes = FLOAT, name: str = "a") -> Path:  # fmt: skip
    """A voice's safetensors file with any mark, and one tensor."""
    tensor = {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}
    return header_of({"__metadata__": {"gsv_voice": mark}, name: tensor}, path, data)


def own(**facts: object) -> str:
    return json.dumps({"format": 1, **facts})


READS: list[Callable[[Path], object]] = [
    voice_weights.parameters_in,
    lambda path: voice_weights.read_gpt(path, golden_config("tiny")),
    lambda path: voice_weights.read_sovits(path, sovits_config("tiny")),
    lambda path: voice_weights.read_quantizer(path, sovits_config("tiny")),
]


@pytest.mark.parametrize("read_it", READS)
@pytest.mark.parametrize(
    "mark",
    ["[" * 100_000, '{"a":' * 100_000, "{", "9" * 5_000, "[]", "{}"],
    ids=["lists", "objects", "cut short", "number", "list", "empty"],
)
def test_marks_that_are_none(tmp_path: Path, mark: str, read_it: Callable[[Path], object]) -> None:
    path = marked(mark, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_it(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < MESSAGE + len(str(path))


@pytest.mark.parametrize(
    "kind",
    ["x" * 8_000, ["x" * 8_000], [[[[[1]]]]] * 500, None],
    ids=["long", "long in a list", "lists", "none"],
)
def test_other_kinds_are_named_briefly(tmp_path: Path, kind: object) -> None:
    path = marked(own(kind=kind), tmp_path / "a.safetensors")
    for read_it in READS[1:3]:
        with pytest.raises(CheckpointError, match="holds a .*, wanted: a") as caught:
            read_it(path)
        assert len(str(caught.value)) < MESSAGE


@pytest.mark.parametrize("read_it", READS)
def test_long_marks_are_not_looked_into(tmp_path: Path, read_it: Callable[[Path], object]) -> None:
    path = marked(own(kind="x" * 2_000_000), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="gsv_voice has 2,000,0.. characters; at most 8,192"):
        read_it(path)


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [("F4", (2,), 1), ("F8_E8M0", (1,), 1), ("F6_E2M3", (4,), 3), ("F8_E4M3", (1,), 1),
     ("C64", (1,), 8), ("U64", (1,), 8), ("X" * 100_000, (1,), 1)],
    ids=["F4", "F8_E8M0", "F6_E2M3", "F8_E4M3", "C64", "U64", "unknown"],
)  # fmt: skip
def test_other_element_types(tmp_path: Path, kind: str, shape: tuple[int, ...], size: int) -> None:
    for mark, reads in ((own(kind="SoVITS LoRA", rank=1), READS[1:3]), ("null", READS[1:])):
        path = marked(mark, tmp_path / "a.safetensors", kind, shape, bytes(size))
        for read_it in reads:
            with pytest.raises(CheckpointError) as caught:
                read_it(path)
            assert str(caught.value).startswith(str(path))
            assert len(str(caught.value)) < MESSAGE
    if kind.startswith(("F4", "F6", "F8_E8")):
        with pytest.raises(CheckpointError, match=f"numbers of the kind {kind}"):
            read_checkpoint(path)


def test_strange_names_in_safetensors(tmp_path: Path) -> None:
    path = marked("null", tmp_path / "a.safetensors", name="enc_p." + "x" * 1_000_000)
    with pytest.raises(CheckpointError, match="strange name") as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < MESSAGE
    path = marked(own(kind="SoVITS LoRA", rank=1), tmp_path / "b.safetensors", name="x" * 1_000_000)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        READS[2](path)
    assert len(str(caught.value)) < MESSAGE


def test_shapes_of_many_dimensions(tmp_path: Path) -> None:
    name = next(iter(voice_weights.expected_shapes(voice_weights.SoVITS, sovits_config("tiny"))))
    path = marked(own(kind="SoVITS"), tmp_path / "a.safetensors", shape=(1,) * 100_000, name=name)
    with pytest.raises(CheckpointError) as caught:
        READS[2](path)
    assert len(str(caught.value)) < MESSAGE


# The border


@pytest.mark.parametrize("error", [RecursionError("deep"), KeyError("a"), MemoryError(),
                                   AssertionError("x" * 100_000), OSError(5, "I/O error")],
                         ids=lambda e: type(e).__name__)  # fmt: skip
def test_whatever_a_file_provokes_is_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = save({"weight": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    voice = marked(own(kind="SoVITS"), tmp_path / "a.safetensors")
    monkeypatch.setattr(reader, "open_zip", fail)
    monkeypatch.setattr(voice_weights, "StoredTensors", fail)
    for call in (lambda: read_checkpoint(path), *(lambda r=r: r(voice) for r in READS)):
        with pytest.raises(CheckpointError) as caught:
            call()
        assert re.match(rf"{tmp_path}/a\.\w+: ", str(caught.value))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < MESSAGE


def test_the_end_of_the_program_is_no_fault_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    path = save({"weight": {"a": torch.ones(1)}}, tmp_path / "a.pth")
    monkeypatch.setattr(reader, "open_zip", stop)
    with pytest.raises(KeyboardInterrupt):
        read_checkpoint(path)


def test_the_reference_encoder_reads_a_broken_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def fail(*_: object) -> None:
        reads.append(1)
        raise RecursionError("deep")

    monkeypatch.setattr(reader, "open_zip", fail)
    folder = make_voice(tmp_path / "voices" / "odd", sovits="x.pth")
    save({"weight": {"a": torch.ones(1)}}, folder / "x.pth")
    voices = VoiceFolder(tmp_path / "voices")
    stage = object.__new__(ReferenceEncoderStage)  # without HuBERT
    config = sovits_config("tiny")
    stage._config, stage._quantizer = config, Quantizer(config.ssl_dim, config.codebook_size)
    stage.voice_metrics, stage._failures = VoiceMetrics(voices), Failures()
    for _ in range(3):
        with pytest.raises(VoiceError, match=r"^voice odd: x.pth: can't be read \(Recursion"):
            stage._encode_voice(voices.get("odd"))
    assert len(reads) == 1
    save({"weight": {"a": torch.ones(2_000)}}, folder / "x.pth")
    with pytest.raises(VoiceError):
        stage._encode_voice(voices.get("odd", fresh=True))
    assert len(reads) == 2, "another file"
