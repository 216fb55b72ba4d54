"""What the reader must read as torch does, and what it must refuse in one line."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.files import (
    Bomb,
    HParams,
    marker_bomb,
    pickled,
    save,
    save_pickle,
    upstream_utils,
    weights,
)
from safetensors.torch import save_file

from gsv.checkpoints.reader import read_checkpoint
from gsv.errors import CheckpointError

CONFIG = {
    "model": {"version": "v4", "rates": [10, 6]},
    "name": "x",
    "betas": (0.8, 0.99),
    "n": None,
}
PLAIN = {"model": {"version": "v4", "rates": [10, 6]}, "name": "x", "betas": [0.8, 0.99], "n": None}


def same(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_torch_wrote(tmp_path: Path, legacy: bool) -> None:
    expected = weights()
    if legacy:  # there, tensors that share a storage must be of one kind; the zip form allows more
        expected = {k: v.clone() for k, v in expected.items()} | {"shared": expected["matrix"][1:]}
    content = OrderedDict(weight=OrderedDict(expected), config=CONFIG, info="GPT-e15", lora_rank=8)
    read = read_checkpoint(save(content, tmp_path / "a.ckpt", legacy=legacy))
    same(read.weights, expected)
    assert (read.config, read.info, read.header, read.layout) == (PLAIN, "GPT-e15", "", "weight")
    assert read.extra == {"lora_rank": 8}


@pytest.mark.parametrize("legacy", [False, True])
def test_config_objects_are_inert_data(tmp_path: Path, legacy: bool) -> None:
    content = {"weight": {"a": torch.ones(2)}, "config": HParams(**CONFIG), "info": "x"}
    read = read_checkpoint(save(content, tmp_path / "a.pth", legacy=legacy))
    assert read.config == PLAIN


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    buffer = tmp_path / "a.pth"
    content = {"weight": {"a": torch.ones(3)}, "config": CONFIG, "info": "ü"}
    torch.save(content, buffer, pickle_protocol=max(protocol, 1))
    read = read_checkpoint(buffer)
    assert read.config == PLAIN
    assert read.info == "ü"


@pytest.mark.parametrize("header", [b"00", b"03", b"04", b"06"])
def test_header_digits_are_reported_and_repaired(tmp_path: Path, header: bytes) -> None:
    expected = weights()
    read = read_checkpoint(save({"weight": expected}, tmp_path / "a.pth", header=header))
    same(read.weights, expected)
    assert read.header == header.decode()


def test_state_dict_of_a_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 5), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), tmp_path / "a.bin")
    read = read_checkpoint(tmp_path / "a.bin")
    same(read.weights, dict(module.state_dict()))
    assert read.layout == ""


def test_parameters(tmp_path: Path) -> None:
    torch.save({"weight": {"a": torch.nn.Parameter(torch.ones(2))}}, tmp_path / "a.pth")
    same(read_checkpoint(tmp_path / "a.pth").weights, {"a": torch.ones(2)})


def test_safetensors(tmp_path: Path) -> None:
    expected = {"a": torch.randn(3, 2), "b": torch.ones(2).half()}
    save_file(expected, tmp_path / "a.safetensors")
    same(dict(sorted(read_checkpoint(tmp_path / "a.safetensors").weights.items())), expected)


def test_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = save({"weight": weights()}, tmp_path / "a.pth")
    read = read_checkpoint(path)
    path.write_bytes(b"")
    same(read.weights, weights())
    read.weights["matrix"].add_(1)  # a copy of the caller's own


# Hostile files


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("where", ["top", "config", "hparams", "weights", "list", "key"])
def test_code_is_refused_and_not_run(tmp_path: Path, where: str, legacy: bool) -> None:
    marker = tmp_path / "marker"
    bomb = marker_bomb(marker)
    tensors = {"a": torch.ones(2)}
    content = {
        "top": bomb,
        "config": {"weight": tensors, "config": {"deep": {"er": bomb}}},
        "hparams": {"weight": tensors, "config": HParams(model=HParams(x=bomb))},
        "weights": {"weight": {"a": bomb}},
        "list": {"weight": tensors, "info": [1, (2, bomb)]},
        "key": {"weight": tensors, "config": {bomb: 1}},
    }[where]
    path = save(content, tmp_path / "evil.pth", legacy=legacy)
    refused(path, "posix.system", "nothing was run")
    assert not marker.exists()
    with upstream_utils():
        torch.load(path, weights_only=False)  # the bomb is real
    assert marker.exists()


@pytest.mark.parametrize(
    "bomb",
    [
        Bomb(eval, "1"),
        Bomb(exec, "1"),
        Bomb(getattr, 1, "real"),
        Bomb(__import__, "os"),
        Bomb(os.path.join, "a"),
        Bomb(torch.load, "x"),
        Bomb(torch.hub.load, "x"),
        Bomb(torch.zeros, 1 << 40),
        Bomb(bytearray, 1 << 40),
        Bomb(pickle.loads, b""),
    ],
)
def test_other_calls_are_refused(tmp_path: Path, bomb: Bomb) -> None:
    refused(save({"weight": {"a": torch.ones(1)}, "x": bomb}, tmp_path / "a.pth"), "refused")


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.",  # OBJ
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02cutils\nHParams\n)\x81}X\x01\x00\x00\x00acos\nsystem\nsb.",  # in a config object
        b"ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR.",
        b"ccollections\nOrderedDict\ncos\nsystem\nR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nK\x00))tR.",
    ],
)
def test_raw_programs_are_refused(tmp_path: Path, program: bytes) -> None:
    refused(save_pickle(program, tmp_path / "a.pth"), "refused")


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}q",
        b"\x80\x02t.",
        b"\x80\x02]]a",
        b"h\x05.",
        b"ccollections\nOrderedDict\n.",
        b"ccollections\nOrderedDict\nK\x01R.",
        b"K\x01)R.",
        b"NNb.",
        b"\x80\x02)K\x01s.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # BINBYTES8 of 2^63 bytes
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # BYTEARRAY8
        b"r\xff\xff\xff\xff.",  # LONG_BINPUT with a huge index
        b"Vabc",
        b"NQ.",
        b"}" + b")\x85" * 50_000 + b"Ns.",  # nested tuples as a key
        b"}" + b"]" * 50_000 + b"a" * 49_999 + b".",
        pickled(None),
        pickled([1, 2]),
        pickled({"a": 1}),
    ],
)
def test_damaged_programs_are_refused(tmp_path: Path, program: bytes) -> None:
    refused(save_pickle(program, tmp_path / "a.pth"))


def test_endless_configurations_are_refused(tmp_path: Path) -> None:
    level: object = ["x"] * 10
    for _ in range(20):
        level = [level] * 10  # 10^21 leaves in a few hundred bytes
    refused(save({"weight": {"a": torch.ones(1)}, "config": {"c": level}}, tmp_path / "a"), "end")
    loop: list[object] = []
    loop.append(loop)
    refused(save({"weight": {"a": torch.ones(1)}, "config": {"c": loop}}, tmp_path / "b"), "end")


def tensor_program(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], count: int = 6,
                   kind: str = "FloatStorage") -> bytes:  # fmt: skip
    class Ref:
        def __reduce__(self) -> object:
            return torch._utils._rebuild_tensor_v2, (
                Storage(), offset, shape, stride, False, OrderedDict(),
            )  # fmt: skip

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if isinstance(value, Storage):
                return ("storage", getattr(torch, kind), "0", "cpu", count)
            return None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"weight": {"a": Ref()}})
    return buffer.getvalue()


def test_views_inside_their_storage(tmp_path: Path) -> None:
    storage = struct.pack("<6f", *range(6))
    path = save_pickle(tensor_program(1, (2, 2), (2, 1)), tmp_path / "a.pth", {"0": storage})
    assert read_checkpoint(path).weights["a"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (6, (), ()),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (5, (6,), (-1,)),
        (0, (2,), ()),
        (0, (1 << 40,), (0,)),
        (0, (1 << 62, 1 << 62), (0, 0)),
        (0, (1 << 70,), (1,)),
        (1 << 70, (0,), (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_views_outside_their_storage_are_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    program = tensor_program(offset, shape, stride)
    path = save_pickle(program, tmp_path / "a.pth", {"0": bytes(24)})
    refused(path, "tensor")


@pytest.mark.parametrize(
    ("count", "kind"),
    [(7, "FloatStorage"), (5, "FloatStorage"), (6, "DoubleStorage"), (1 << 60, "FloatStorage")],
)
def test_storages_of_another_size_are_refused(tmp_path: Path, count: int, kind: str) -> None:
    program = tensor_program(0, (2,), (1,), count, kind)
    refused(save_pickle(program, tmp_path / "a.pth", {"0": bytes(24)}), "size")


@pytest.mark.parametrize("kind", ["QInt8Storage", "ComplexFloatStorage", "UntypedStorage"])
def test_other_element_types_are_refused(tmp_path: Path, kind: str) -> None:
    program = tensor_program(0, (2,), (1,), 6, kind)
    refused(save_pickle(program, tmp_path / "a.pth", {"0": bytes(24)}), kind)


def test_many_views_of_one_storage_are_refused(tmp_path: Path) -> None:
    big = torch.zeros(200_000)
    content = {"weight": {f"t{i}": big[i:] for i in range(20)}}
    refused(save(content, tmp_path / "a.pth"), "more memory")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncation_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = save({"weight": weights(), "config": CONFIG}, tmp_path / "a.pth", legacy=legacy)
    whole = path.read_bytes()
    for size in {*range(0, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:size])
        refused(path)


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    path = save({"weight": {"a": torch.zeros(1000)}}, tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    data[data.index(bytes(2000)) + 1000] ^= 1
    path.write_bytes(data)
    refused(path, "checksum")


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled({"a": "b" * 50_000_000}))
    refused(path, "compressed")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_program(0, (10_000_000,), (1,), 10_000_000))
        archive.writestr("archive/data/0", bytes(40_000_000), zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


def test_declared_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    program = tensor_program(0, (2,), (1,), 1 << 28)
    path = save_pickle(program, tmp_path / "a.pth", {"0": bytes(24)})
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # of data/0: lie about both its sizes
    data[directory + 20 : directory + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(data)
    refused(path, "claim more bytes than the file has")


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    path = save({"weight": {f"t{i}": torch.zeros(5000) for i in range(9)}}, tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    entries = [m.start() for m in re.finditer(b"PK\x01\x02", data)]
    for entry in entries:  # every entry begins where the first does and claims most of the file
        data[entry + 42 : entry + 46] = struct.pack("<I", 0)
        data[entry + 20 : entry + 28] = struct.pack("<II", len(data) // 2, len(data) // 2)
    path.write_bytes(data)
    refused(path, "claim more bytes than the file has")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a" * 1000, "\u202e"])
def test_strange_names_are_refused(tmp_path: Path, name: str) -> None:
    path = save({"weight": {name: torch.ones(1)}}, tmp_path / "a.pth")
    refused(path, "strange name")


@pytest.mark.parametrize("legacy", [False, True])
def test_random_damage_never_escapes(tmp_path: Path, legacy: bool) -> None:
    source = {k: v.clone() for k, v in weights().items()}
    content = {"weight": source, "config": HParams(**CONFIG)}
    path = save(content, tmp_path / "a.pth", legacy=legacy)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in random.integers(0, len(data), random.integers(1, 5)):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x00" * 100, "not a checkpoint"),
        (b"ZZ\x03\x04" + b"\x00" * 100, "ZZ"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{broken", "safetensors"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    refused(path, word)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "can't be read")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s1v3.ckpt")
    refused(tmp_path / "s1v3.ckpt", "not a regular file")
    refused(Path("/dev/null"), "not a regular file")


def test_huge_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: takes no space
    refused(path, "at most")


def test_other_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not one that torch.save wrote")
