"""Recognises a checkpoint file by its content; of a wrong one, says what it is.

v3 and v4 of SoVITS have the same tensors: only the version in the file's own configuration, the
header digits, or the fingerprint of the published file tell them apart. In that order of trust:
fingerprint, header, configuration. A file that says nothing at all is taken for v4 with a note,
because refusing it would refuse honest v4 files, and the wrong guess is heard, not harmful.
"""

from __future__ import annotations

import dataclasses
import enum

from gsv.checkpoints.reader import Checkpoint
from gsv.errors import CheckpointError


class Kind(enum.Enum):
    """The families of files that people have at hand."""

    GPT = "GPT"
    SOVITS = "SoVITS"
    SOVITS_LORA = "SoVITS LoRA"
    VOCODER = "vocoder"
    HUBERT = "HuBERT"
    BERT = "BERT"
    TRAINING = "training state"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a file is.

    Attributes:
        kind: its family.
        version: upstream's version (``v1``, ``v2``, ``v3``, ``v4``, ``v2Pro``, ``v2ProPlus``), or
            "" when the file does not say.
        description: for messages, such as "a v2 SoVITS file".
    """

    kind: Kind
    version: str
    description: str


V4_HAS_NO_S2V4_CKPT = (
    "GPT-SoVITS v4 has no s2v4.ckpt: its semantic model is that of v3, s1v3.ckpt; "
    "the v4 files are s1v3.ckpt, gsv-v4-pretrained/s2Gv4.pth and gsv-v4-pretrained/vocoder.pth"
)

# What upstream's saver writes in place of PK (process_ckpt.py: head2version).
_HEADERS = {
    "00": "v1", "01": "v2", "02": "v3", "03": "v3", "04": "v4", "05": "v2Pro", "06": "v2ProPlus",
}  # fmt: skip
# MD5 of the first 8,192 bytes of the published generators (process_ckpt.py).
_FINGERPRINTS = {
    "dc3c97e17592963677a4a1681f30c653": "v2",
    "43797be674a37c1c83ee81081941ed0f": "v3",
    "6642b37f3dbb1f76882b69937c95a5f3": "v2",
    "4f26b9476d0c5033e04162c486074374": "v4",
    "c7e9fce2223f3db685cdfa1e6368728a": "v2Pro",
    "66b313e39455b57ab1b0bc0b239c9d0a": "v2ProPlus",
}
_PHONEMES_V1 = {"SoVITS": 322, "GPT": 512}  # rows of the phoneme table; v2 and later have 732
_PRO_PLUS_CHANNELS = 768  # first width of v2ProPlus' decoder; v2Pro has 512


def identify(checkpoint: Checkpoint) -> Identity:
    """Say what the file holds; never raises for a file that could be read."""
    keys = checkpoint.weights
    training = _training_state(checkpoint)
    if training:
        return Identity(Kind.TRAINING, "", training)
    if any(".lora_A." in key for key in keys):
        return _lora(checkpoint)
    if any(key.startswith(("enc_p.", "cfm.", "dec.")) for key in keys):
        return _sovits(checkpoint)
    if any("ar_text_embedding" in key for key in keys):
        return _gpt(checkpoint)
    if "conv_pre.weight" in keys or "conv_pre.weight_g" in keys:
        return _vocoder(checkpoint)
    if any("feature_extractor.conv_layers" in key for key in keys):
        return Identity(Kind.HUBERT, "", "a HuBERT speech encoder")
    if any("encoder.layer.0.attention.self" in key for key in keys):
        return Identity(Kind.BERT, "", "a BERT text encoder")
    some = ", ".join(list(keys)[:3])
    return Identity(Kind.UNKNOWN, "", f"a file of another model (its tensors begin with {some})")


def _training_state(checkpoint: Checkpoint) -> str:
    if any(key.startswith("discriminators.") for key in checkpoint.weights):
        return "a SoVITS discriminator, needed for training only"
    if checkpoint.layout == "state_dict" and "pytorch-lightning_version" in checkpoint.extra:
        return "a GPT training state; the weights to use are in upstream's GPT_weights folder"
    if checkpoint.layout == "model" and "optimizer" in checkpoint.extra:
        return "a SoVITS training state; the weights to use are in upstream's SoVITS_weights folder"
    return ""


def _rows(checkpoint: Checkpoint, ending: str) -> int:
    for key, value in checkpoint.weights.items():
        if key.endswith(ending) and value.ndim:
            return int(value.shape[0])
    return 0


def _gpt(checkpoint: Checkpoint) -> Identity:
    rows = _rows(checkpoint, "ar_text_embedding.word_embeddings.weight")
    if rows == _PHONEMES_V1["GPT"]:
        return Identity(Kind.GPT, "v1", "a v1 GPT file (512 phonemes)")
    return Identity(Kind.GPT, "", f"a GPT file of v2 or later ({rows} phonemes)")


def _declared_version(checkpoint: Checkpoint) -> str:
    model = checkpoint.config.get("model")
    version: object = model.get("version") if isinstance(model, dict) else None
    return next((known for known in _HEADERS.values() if known == version), "")


def _lora(checkpoint: Checkpoint) -> Identity:
    version = _HEADERS.get(checkpoint.header) or _declared_version(checkpoint)
    return Identity(Kind.SOVITS_LORA, version, f"a {version or 'v3 or v4'} SoVITS LoRA file")


def _sovits(checkpoint: Checkpoint) -> Identity:
    version = _FINGERPRINTS.get(checkpoint.fingerprint) or _HEADERS.get(checkpoint.header, "")
    if any(key.startswith("cfm.") for key in checkpoint.weights):
        if version not in ("v3", "v4"):
            declared = _declared_version(checkpoint)
            # "v2" stands in the configuration of files made before upstream set it: no answer.
            version = declared if declared in ("v3", "v4") else ""
        return Identity(Kind.SOVITS, version, f"a {version or 'v3 or v4'} SoVITS file")
    if any(key.startswith("sv_emb.") for key in checkpoint.weights):
        wide = _rows(checkpoint, "dec.conv_pre.weight") == _PRO_PLUS_CHANNELS
        version = "v2ProPlus" if wide else "v2Pro"
    else:
        rows = _rows(checkpoint, "enc_p.text_embedding.weight")
        version = "v1" if rows == _PHONEMES_V1["SoVITS"] else "v2"
    return Identity(Kind.SOVITS, version, f"a {version} SoVITS file")


def _vocoder(checkpoint: Checkpoint) -> Identity:
    if any(key.startswith("ups.0.0.") or ".activations." in key for key in checkpoint.weights):
        return Identity(Kind.VOCODER, "v3", "BigVGAN, the 24 kHz vocoder of v3")
    return Identity(Kind.VOCODER, "", "a vocoder")


_WANTED = {
    Kind.GPT: "the semantic model s1v3.ckpt, or one fine-tuned from it",
    Kind.SOVITS: "the v4 generator s2Gv4.pth, or one fine-tuned from it",
    Kind.SOVITS_LORA: "a LoRA file that upstream trained on v4 (header 04)",
    Kind.VOCODER: "the 48 kHz vocoder of v4, vocoder.pth",
    Kind.HUBERT: "chinese-hubert-base",
    Kind.BERT: "chinese-roberta-wwm-ext-large",
}
_VERSIONS = {Kind.GPT: ("",), Kind.SOVITS: ("v4", ""), Kind.SOVITS_LORA: ("v4", "")}


def require(checkpoint: Checkpoint, wanted: Kind) -> list[str]:
    """Check that the file is of the wanted kind and usable with v4.

    Returns:
        Notes for people, such as a version that had to be assumed.

    Raises:
        CheckpointError: it is something else; the message says what it is and what is wanted.
    """
    identity = identify(checkpoint)
    versions = _VERSIONS.get(wanted, ("", "v4"))
    if identity.kind is not wanted or identity.version not in versions:
        raise CheckpointError(
            f"{checkpoint.path}: this is {identity.description}; wanted: {_WANTED[wanted]}"
        )
    if wanted in (Kind.SOVITS, Kind.SOVITS_LORA) and not identity.version:
        return [
            f"{checkpoint.path.name} does not say whether it is v3 or v4, whose tensors are alike; "
            "taken for v4"
        ]
    return []
