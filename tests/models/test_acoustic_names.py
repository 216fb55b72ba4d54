"""Every key of the official layouts has a place, and every parameter a key."""

from __future__ import annotations

import pytest
from golden import manifest, sovits_config, vocoder_config

from gsv.checkpoints.names import sovits as sovits_names
from gsv.checkpoints.names import vocoder as vocoder_names
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder


def keys(name: str) -> dict[str, list[int]]:
    return {tensor["key"]: tensor["shape"] for tensor in manifest(name, "tiny")["tensors"]}


def test_sovits_names() -> None:
    named = {sovits_names.rename(key): shape for key, shape in keys("s2Gv4").items()}
    del named[None]
    state = SoVITS(sovits_config("tiny")).state_dict()
    folded = {name.removesuffix("_v") if name else name for name in named}
    assert {name for name in folded if not str(name).endswith("_g")} == set(state)
    for name, value in state.items():
        assert list(value.shape) == named.get(name, named.get(f"{name}_v"))


def test_dropped_sovits_keys_are_listed() -> None:
    dropped = {key for key in keys("s2Gv4") if sovits_names.rename(key) is None}
    codebook = "quantizer.vq.layers.0._codebook"
    assert dropped == {
        "enc_p.proj.weight",
        "enc_p.proj.bias",
        "linear_mel.weight",
        "linear_mel.bias",
        f"{codebook}.inited",
        f"{codebook}.cluster_size",
        f"{codebook}.embed_avg",
    }


def test_vocoder_names() -> None:
    named = {vocoder_names.rename(key): shape for key, shape in keys("vocoder").items()}
    state = Vocoder(vocoder_config("tiny")).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == named


@pytest.mark.parametrize(
    "key", ["enc_q.pre.weight", "wns1.enc.in_layers.x.bias", "bridge.0.weight.more", ""]
)
def test_unknown_sovits_keys(key: str) -> None:
    with pytest.raises(KeyError):
        sovits_names.rename(key)


@pytest.mark.parametrize(
    "key", ["dec.conv_pre.weight", "resblocks.0.convs3.0.bias", "resblocks.1."]
)
def test_unknown_vocoder_keys(key: str) -> None:
    with pytest.raises(KeyError):
        vocoder_names.rename(key)
