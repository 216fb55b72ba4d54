"""`gsv prepare`: a repository that can be served, or one clear line and nothing."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.files import marker_bomb, save
from checkpoints.hub_server import FakeHub, serving
from click.testing import CliRunner, Result

from gsv.checkpoints import text_download
from gsv.checkpoints.hub import OFFICIAL
from gsv.checkpoints.manifest import verify_manifest
from gsv.checkpoints.prepare import Files, _default_voice
from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.text_download import TextFile
from gsv.commands.prepare import _Bars, prepare
from gsv.config import GPTConfig, SoVITSConfig, VocoderConfig
from gsv.errors import CheckpointError
from gsv.models.gpt import SemanticGPT
from gsv.models.quantizer import Quantizer
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder
from gsv.repository import template_root


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(prepare, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without what `make venv` has brought: it would come before every download."""
    monkeypatch.setattr("gsv.checkpoints.text_data.installed_folder", lambda: tmp_path / "none")


@pytest.fixture(scope="module")
def repository(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("served") / "repository"
    result = run("--pretrained", demo, "--out", target)
    assert result.exit_code == 0, result.output
    return target


def listing(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_every_model_is_there_with_its_weights(repository: Path) -> None:
    models = {p.parent.name for p in template_root().glob("*/config.pbtxt")}
    assert {p.name for p in repository.iterdir()} == models
    assert {
        "text_frontend/1/bert/config.json",
        "text_frontend/1/bert/model.safetensors",
        "text_frontend/1/bert/vocab.txt",
        "reference_encoder/1/hubert/config.json",
        "reference_encoder/1/hubert/model.safetensors",
        "reference_encoder/1/quantizer.safetensors",
        "reference_encoder/1/quantizer.json",
        "semantic_gpt/1/gpt.safetensors",
        "semantic_gpt/1/gpt.json",
        "sovits_v4/1/sovits.safetensors",
        "sovits_v4/1/sovits.json",
        "vocoder/1/vocoder.safetensors",
        "vocoder/1/vocoder.json",
    } < listing(repository)
    assert (repository / "text_frontend" / "1" / "text_data").is_dir()
    for model in models:
        source = verify_manifest(repository / model / "1")
        assert source["demo"] is False


def test_networks_load_strictly(repository: Path) -> None:
    def load(path: str, module: torch.nn.Module) -> None:
        module.load_state_dict(load_module_state(repository / path), strict=True)

    gpt = GPTConfig.load(repository / "semantic_gpt/1/gpt.json")
    load("semantic_gpt/1/gpt.safetensors", SemanticGPT(gpt))
    sovits = SoVITSConfig.load(repository / "sovits_v4/1/sovits.json")
    load("sovits_v4/1/sovits.safetensors", SoVITS(sovits))
    assert SoVITSConfig.load(repository / "reference_encoder/1/quantizer.json") == sovits
    quantizer = Quantizer(sovits.ssl_dim, sovits.codebook_size)
    load("reference_encoder/1/quantizer.safetensors", quantizer)
    vocoder = VocoderConfig.load(repository / "vocoder/1/vocoder.json")
    load("vocoder/1/vocoder.safetensors", Vocoder(vocoder))


def test_demo_says_that_it_does_not_speak(tmp_path: Path) -> None:
    result = run("--demo", "tiny", "--out", tmp_path / "repository")
    assert result.exit_code == 0, result.output
    assert "RANDOM demo weights" in result.stderr
    assert "not speech" in result.stderr
    assert result.stdout == ""
    assert verify_manifest(tmp_path / "repository" / "vocoder" / "1")["demo"] is True
    assert {p.name for p in tmp_path.iterdir()} == {"repository", "voices"}


def test_voices_elsewhere_are_told_to_the_models(demo: Path, tmp_path: Path) -> None:
    voices = tmp_path / "other" / "my voices"
    target = tmp_path / "models" / "repository"
    result = run("--pretrained", demo, "--out", target, "--voices", voices)
    assert result.exit_code == 0, result.output
    assert voices.is_dir()
    for model in ("text_frontend", "reference_encoder"):
        config = (target / model / "config.pbtxt").read_text()
        assert '"voice_folder" value: { string_value: "../../other/my voices" }' in config


def test_voices_beside_leave_the_configuration_alone(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsv.checkpoints.prepare._ONE_THREAD_WEIGHTS", 1)
    target = tmp_path / "repository"
    assert run("--pretrained", demo, "--out", target).exit_code == 0
    for config in target.glob("*/config.pbtxt"):
        template = template_root() / config.parent.name / "config.pbtxt"
        assert config.read_text() == template.read_text()


def test_dtype_is_told_to_the_generators(demo: Path, tmp_path: Path) -> None:
    target = tmp_path / "repository"
    result = run("--pretrained", demo, "--out", target, "--dtype", "auto")
    assert result.exit_code == 0, result.output
    assert models_with(target, "dtype", "auto") == {"semantic_gpt", "sovits_v4"}


def test_small_generators_get_one_thread(repository: Path) -> None:
    assert models_with(repository, "threads", "1") == {"semantic_gpt", "sovits_v4"}


def models_with(repository: Path, key: str, value: str) -> set[str]:
    """The models whose parameter ``key`` is ``value``."""
    wanted = f'key: "{key}" value: {{ string_value: "{value}" }}'
    configs = repository.glob("*/config.pbtxt")
    return {config.parent.name for config in configs if wanted in config.read_text()}


def test_existing_voices_stay(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "voices" / "sample").mkdir(parents=True)
    (tmp_path / "voices" / "sample" / "voice.toml").write_text("mine")
    assert run("--pretrained", demo, "--out", tmp_path / "r").exit_code == 0
    assert (tmp_path / "voices" / "sample" / "voice.toml").read_text() == "mine"


def test_an_existing_folder_needs_force(demo: Path, tmp_path: Path) -> None:
    target = tmp_path / "repository"
    assert run("--pretrained", demo, "--out", target).exit_code == 0
    own = target / "text_frontend" / "1" / "text_data" / "lexicon.toml"
    own.write_text("mine")
    before = listing(target)
    result = run("--pretrained", demo, "--out", target)
    assert result.exit_code == 1
    assert "exists already; choose another folder or use --force" in result.stderr
    assert run("--pretrained", demo, "--out", target, "--force").exit_code == 0
    assert listing(target) == before
    assert own.read_text() == "mine"


def test_force_never_replaces_other_folders(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    result = run("--pretrained", demo, "--out", tmp_path / "home", "--force")
    assert result.exit_code == 1
    assert "holds other things than models (thesis.tex)" in result.stderr
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_force_never_takes_voices_along(demo: Path, tmp_path: Path) -> None:
    """A voice folder in the repository looks like the model `voices`."""
    target = tmp_path / "r"
    for inside in (target, target / "voices", target / "deep" / "inside"):
        result = run("--pretrained", demo, "--out", target, "--voices", inside)
        assert result.exit_code == 1
        assert "the voice folder is in the model repository" in result.stderr
    assert run("--pretrained", demo, "--out", target).exit_code == 0
    voice = target / "voices" / "alice"
    voice.mkdir()
    (voice / "voice.toml").write_text("mine")
    result = run("--pretrained", demo, "--out", target, "--force")
    assert result.exit_code == 1
    assert "holds other things than models (voices)" in result.stderr
    assert (voice / "voice.toml").read_text() == "mine"


def test_usage(tmp_path: Path) -> None:
    for arguments in (
        ["--out", tmp_path / "r"],
        ["--demo", "tiny", "--download", "--out", tmp_path / "r"],
        ["--demo", "huge", "--out", tmp_path / "r"],
        ["--demo", "tiny"],
    ):
        assert run(*arguments).exit_code == 2
    assert "Examples:" in run("--help").output
    assert list(tmp_path.iterdir()) == []


# Wrong sources: one line, exit code 1, nothing written


def change(path: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = torch.load(folder / path, weights_only=True)
        edit(content)
        torch.save(content, folder / path)

    return apply


def hostile(folder: Path) -> None:
    save({"weight": {"a": marker_bomb(folder / "marker")}}, folder / "s1v3.ckpt")


def truncate(folder: Path) -> None:
    path = folder / "gsv-v4-pretrained" / "s2Gv4.pth"
    path.write_bytes(path.read_bytes()[:-1000])


def swap(folder: Path) -> None:
    inner = folder / "gsv-v4-pretrained"
    shutil.copyfile(inner / "s2Gv4.pth", inner / "vocoder.pth")


def no_gpt(folder: Path) -> None:
    (folder / "s1v3.ckpt").unlink()


def no_bert(folder: Path) -> None:
    shutil.rmtree(folder / "chinese-roberta-wwm-ext-large")


def official_beside_tiny(folder: Path) -> None:
    change("gsv-v4-pretrained/s2Gv4.pth", lambda c: c.pop("arch"))(folder)


S2 = "gsv-v4-pretrained/s2Gv4.pth"
WRONG: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "malicious": (hostile, ["s1v3.ckpt", "posix.system", "nothing was run"]),
    "truncated": (truncate, ["s2Gv4.pth", "end is missing or damaged"]),
    "v3": (
        change(S2, lambda c: c["config"]["model"].update(version="v3")),
        ["this is a v3 SoVITS file; wanted: the v4 generator s2Gv4.pth"],
    ),
    "generator as vocoder": (swap, ["vocoder.pth: this is a v4 SoVITS file"]),
    "sample rate": (
        change(S2, lambda c: c["config"]["data"].update(sampling_rate=44100)),
        ["sampling_rate is 44100 Hz; v4 needs 32000 Hz"],
    ),
    "missing tensor": (
        change(S2, lambda c: c["weight"].pop("bridge.0.bias")),
        ["tensors are missing: bridge.bias"],
    ),
    "no GPT": (no_gpt, ["missing: ", "s1v3.ckpt", "v4 has no s2v4.ckpt", "--download"]),
    "no BERT": (no_bert, ["missing: ", "chinese-roberta-wwm-ext-large"]),
    "tiny without its numbers": (official_beside_tiny, ["tensors are missing", " more"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_sources(demo: Path, tmp_path: Path, name: str) -> None:
    damage, words = WRONG[name]
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    damage(source)
    out = tmp_path / "out"
    out.mkdir()
    result = run("--pretrained", source, "--out", out / "repository")
    assert result.exit_code == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    for word in words:
        assert word in error
    assert list(out.iterdir()) == []
    assert not (source / "marker").exists()


def test_an_error_keeps_the_earlier_repository(demo: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "repository"
    assert run("--pretrained", demo, "--out", target).exit_code == 0
    before = {path: (target / path).read_bytes() for path in listing(target)}
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    truncate(source)
    assert run("--pretrained", source, "--out", target, "--force").exit_code == 1
    assert {path: (target / path).read_bytes() for path in listing(target)} == before
    assert {p.name for p in target.parent.iterdir()} == {"repository", "voices"}


def test_unknown_tensors_are_told(demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(demo, source)
    change(S2, lambda c: c["weight"].update({"enc_q.pre.weight": torch.ones(1)}))(source)
    result = run("--pretrained", source, "--out", tmp_path / "repository")
    assert result.exit_code == 0
    assert "s2Gv4.pth: 1 unknown tensors dropped: enc_q.pre.weight" in result.stderr


@pytest.mark.parametrize("name", ["s2v4.ckpt", "s1v4.ckpt"])
def test_asking_for_a_file_that_never_existed(demo: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"v4 has no s2v4\.ckpt.*that of v3, s1v3\.ckpt"):
        Files.find(demo, gpt=demo / name)


def test_a_checkout_of_upstream_is_a_source(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo, tmp_path / "GPT_SoVITS" / "pretrained_models")
    assert Files.find(tmp_path).gpt.is_file()


def test_full_disks_are_noticed_early(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = run("--pretrained", demo, "--out", tmp_path / "out" / "repository")
    assert result.exit_code == 1
    assert "bytes needed, 1,000 are free" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def _text_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Two text files in place of the real ones."""
    files = {"cmudict.rep": b"A  AH0\n", "engdict-hot.rep": b"B  B IY1\n"}
    table = [
        TextFile(name, (), len(data), hashlib.sha256(data).hexdigest(), "MIT", f"upstream/{name}")
        for name, data in files.items()
    ]
    monkeypatch.setattr(text_download, "FILES", tuple(table))
    return files


def test_text_data_for_demo_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _text_files(monkeypatch)
    own = tmp_path / "own" / "upstream"
    own.mkdir(parents=True)
    (own / "engdict-hot.rep").write_bytes(b"C  S IY1\n")
    monkeypatch.chdir(tmp_path)
    with serving(FakeHub(files)) as hub:
        mirror = ["--text-mirror", f"{hub.endpoint}/store"]
        result = run(
            *("--demo", "tiny", "--download-text", *mirror, "--text-data", "own"),
            *("--out", "repository"),
        )
        asked = {path for _, path, _ in hub.requests}
    assert result.exit_code == 0, result.output
    folder = tmp_path / "repository" / "text_frontend" / "1" / "text_data" / "upstream"
    assert (folder / "cmudict.rep").read_bytes() == files["cmudict.rep"]
    assert (folder / "engdict-hot.rep").read_bytes() == b"C  S IY1\n"
    assert asked == {"/store/cmudict.rep"}  # what is here already is not fetched


def test_progress_is_shown_as_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bars = _Bars()
    for here in (0, 400_000, 100_000, 1_000_000):  # a server without ranges begins again
        bars.show("a.pth", here, 1_000_000)
    bars.show("b.pth", 5, 5)
    bars.end()
    bars.end()
    shown = terminal.getvalue()
    assert "a.pth (1.0 MB)" in shown
    assert "40%" in shown
    assert shown.count("100%") >= 2
    assert "b.pth" in shown


def test_a_mirror_is_for_downloads(tmp_path: Path) -> None:
    result = run("--demo", "tiny", "--text-mirror", "http://x", "--out", tmp_path / "r")
    assert result.exit_code == 2
    assert "--download-text" in result.stderr


def test_download_and_prepare(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path: (demo / path).read_bytes() for path in OFFICIAL.paths}
    lfs = {path for path in files if not path.endswith("config.json")}
    text = _text_files(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with serving(FakeHub(files | text, lfs)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        result = run(
            *("--download", "--revision", "main"),
            *("--text-mirror", f"{hub.endpoint}/store", "--out", "repository"),
        )
    assert result.exit_code == 0, result.output
    folder = tmp_path / "repository" / "text_frontend" / "1" / "text_data" / "upstream"
    assert (folder / "cmudict.rep").read_bytes() == text["cmudict.rep"]
    assert "cmudict.rep" in result.stderr
    assert "s2Gv4.pth (" in result.stderr
    assert f"revision {hub.commit}" in result.stderr
    assert (tmp_path / "pretrained" / "s1v3.ckpt").is_file()
    source = verify_manifest(tmp_path / "repository" / "vocoder" / "1")
    assert list(source["checkpoints"]) == ["vocoder.pth"]
    assert json.loads((tmp_path / "repository/semantic_gpt/1/gpt.json").read_text())


def _defaults(repository: Path) -> set[str]:
    found = [
        re.findall(r'key: "default_voice" value: { string_value: "([^"]*)"', path.read_text())
        for path in repository.glob("*/config.pbtxt")
    ]
    return {name for names in found for name in names}


def test_the_default_voice_is_one_that_is_there(demo: Path, tmp_path: Path) -> None:
    result = run("--pretrained", demo, "--out", tmp_path / "r")
    assert "default voice: sample" in result.output
    assert _defaults(tmp_path / "r") == {"sample"}
    assert (tmp_path / "voices" / "sample" / "voice.toml").is_file()


def test_the_demo_voice_is_the_default_of_its_repository(tmp_path: Path) -> None:
    result = run("--demo", "voice", "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert _defaults(tmp_path / "r") == {"demo"}
    assert (tmp_path / "voices" / "demo" / "voice.toml").is_file()


@pytest.mark.parametrize(
    ("there", "expected"), [([], ""), (["bob"], "bob"), (["alice", "bob"], "")]
)
def test_without_a_voice_of_ours_the_only_one_is_the_default(
    tmp_path: Path, there: list[str], expected: str
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "voice.toml").touch()
    assert _default_voice(None, tmp_path) == expected
