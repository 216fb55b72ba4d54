"""The `gsv` command against a real local server: stdout, stderr and exit codes apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from kserve_models import CHUNK, Models

from gsv_client import Audio, Client
from gsv_client.cli import OWN, main
from gsv_client.cli.phones import _print, shown
from gsv_client.testing import FakeTransport

Invoke = Callable[..., Result]
GSV = [sys.executable, "-W", "error", "-c", "from gsv_client.cli import main; main()"]


@pytest.fixture
def gsv(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs `gsv ARGUMENTS… --url SERVER` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, url: str | None = address, stdin: bytes = b"") -> Result:
        where = ["--url", url] if url else []
        return CliRunner().invoke(main, [*arguments, *where], input=stdin)

    return invoke


@pytest.fixture
def reference(tmp_path: Path) -> str:
    soundfile.write(tmp_path / "me.flac", np.zeros(8_000 * 3), 8_000)
    return str(tmp_path / "me.flac")


def failed(result: Result, code: int = 1) -> str:
    """The one line of a failure; stdout must be empty."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip()


def test_say_writes_a_file_and_talks_on_stderr(gsv: Invoke, models: Models) -> None:
    result = gsv("say", "Hello.", "--voice", "demo", "--seed", "7", "--sample-rate", "16000")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("speech.wav: 0.15 s of audio at 16000 Hz in ")
    assert len(Audio.read("speech.wav").samples) == CHUNK
    _, inputs, _, _ = models.seen[0]
    assert set(inputs) == {"TEXT", "VOICE", "SEED", "SAMPLE_RATE"}


def test_quiet_is_quiet(gsv: Invoke) -> None:
    result = gsv("say", "Hello.", "-q", "-o", "a.flac")
    assert (result.exit_code, result.output) == (0, "")
    assert soundfile.info("a.flac").format == "FLAC"


@pytest.mark.parametrize("stream", [[], ["--stream"]])
@pytest.mark.parametrize("format_name", ["wav", "wav-float", "raw"])
def test_audio_goes_to_stdout_alone(
    gsv: Invoke, tmp_path: Path, stream: list[str], format_name: str
) -> None:
    result = gsv("say", "Hello.", "-o", "-", "--format", format_name, *stream)
    assert result.exit_code == 0
    assert result.stderr.startswith("stdout: ")
    count = CHUNK * (3 if stream else 1)
    if format_name == "raw":
        assert len(result.stdout_bytes) == 2 * count
        return
    (tmp_path / "got.wav").write_bytes(result.stdout_bytes)
    assert len(Audio.read(tmp_path / "got.wav").samples) == count


def test_an_older_file_stays_until_there_is_audio(gsv: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"older")
    failed(gsv("say", "--stream", "x", "--voice", "nobody", "-o", "a.wav"))
    failed(gsv("say", "--stream", "", "-o", "a.wav"))
    assert file.read_bytes() == b"older"


def test_a_stream_tells_when_its_first_audio_came(gsv: Invoke) -> None:
    result = gsv("say", "--stream", "Hello.", "-o", "a.wav")
    assert "first audio after" in result.stderr
    assert soundfile.info("a.wav").frames == 3 * CHUNK


def test_the_text_may_come_from_stdin(gsv: Invoke, models: Models) -> None:
    for arguments in (["say"], ["say", "-"]):
        assert gsv(*arguments, stdin="你好。\n".encode()).exit_code == 0
    assert gsv("say", "--stream", stdin=b"Hello there. And you?").exit_code == 0
    texts = [inputs["TEXT"].item().decode().strip() for _, inputs, _, _ in models.seen]
    assert texts[:2] == ["你好。"] * 2
    assert sorted(texts[2:]) == ["And you?", "Hello there."]


def test_stdin_that_is_no_text(gsv: Invoke) -> None:
    assert "stdin is not UTF-8" in failed(gsv("say", stdin=b"\xff\xfe"))
    assert "TEXT: empty" in failed(gsv("say", stdin=b""))
    assert "TEXT: empty" in failed(gsv("say", "--stream", stdin=b" \n"))
    assert "TEXT: empty" in failed(gsv("say", "--stream", ""))


def test_a_reference_is_sent(gsv: Invoke, models: Models, reference: str) -> None:
    result = gsv("say", "x", "-r", reference, "--reference-text", "文字", "-q")
    assert result.exit_code == 0, result.output
    _, inputs, _, _ = models.seen[0]
    assert inputs["REFERENCE_AUDIO"].shape == (1, 24_000)
    assert inputs["REFERENCE_TEXT"].item().decode() == "文字"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["say", "x", "--voice", "nobody"], "VOICE: got 'nobody'; allowed: demo"),
        (["say", "x", "--stream", "--voice", "nobody"], "VOICE: got 'nobody'; allowed: demo"),
        (["say", "x", "-o", "a.mp3"], "a.mp3: the suffix '.mp3' is not one of a known format"),
        (["say", "x", "-o", "none/a.wav"], "none/a.wav: "),
        (["say", "x", "--stream", "--format", "flac"], "allowed for a growing file: wav"),
        (
            ["say", "--stream", "breaks"],
            "it broke in the middle; speech.wav holds the first 0.10 s",
        ),
        (["say", "x", "--timeout", "0"], "timeout: got 0.0; allowed: seconds above 0"),
        (["say", "bug"], "Failed to process: At: model.py(19): execute"),
    ],
)
def test_errors_are_one_line(gsv: Invoke, arguments: list[str], message: str) -> None:
    assert message in failed(gsv(*arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", "x", "--language", "klingon"],
        ["say", "x", "--speed", "fast"],
        ["say", "x", "--reference", "none.wav", "--reference-text", "x"],
        ["say", "x", "--reference-text", "x"],
        ["say", "x", "y"],
        ["say", "x", "--sample-rate", "12345"],
        ["phones"],
        ["nonsense"],
    ],
)
def test_usage_errors_are_2(gsv: Invoke, arguments: list[str]) -> None:
    result = gsv(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_a_reference_without_its_text_is_a_usage_error(gsv: Invoke, reference: str) -> None:
    result = gsv("say", "x", "-r", reference)
    assert result.exit_code == 2
    assert "--reference needs --reference-text" in result.stderr


def test_no_server() -> None:
    message = failed(CliRunner().invoke(main, ["say", "x", "--url", "127.0.0.1:1"]))
    assert message.startswith("no server answers at http://127.0.0.1:1 (Connection refused)")


def test_the_url_may_come_from_the_environment(address: str, tmp_path: Path) -> None:
    runner = CliRunner(env={"GSV_URL": address})
    assert runner.invoke(main, ["phones", "你"]).exit_code == 0


@pytest.mark.parametrize(
    "command", [[], *([name] for name in OWN), ["voices", "list"], ["voices", "show"]]
)
def test_every_command_has_help_with_examples(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert "  gsv " in result.stdout
    assert result.stderr == ""


def test_every_option_is_explained() -> None:
    context = click.Context(main)
    for name in OWN:
        command = main.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "timeout":
                assert parameter.help, f"gsv {name} {parameter.opts}"


def test_phones_as_a_table_and_as_json(gsv: Invoke) -> None:
    assert gsv("phones", "你").stdout == (
        "1  你  (pause 0.3 s)\n   zh  你 → 你\n      n   i3\n      227 168\n"
    )
    values = json.loads(gsv("phones", "-", "--json", stdin="你".encode()).stdout)
    assert values["sentences"][0]["segments"][0]["ids"] == [227, 168]


def test_voices_of_a_server(gsv: Invoke) -> None:
    result = gsv("voices", "list")
    assert (result.exit_code, result.stderr) == (0, "broken: bob: no text\n")
    assert result.stdout.splitlines() == ["NAME    LANGUAGE  REFERENCES  TEXT", "爱丽丝"]
    assert json.loads(gsv("voices", "list", "--json").stdout) == [
        {"name": "爱丽丝", "default": False}
    ]
    assert "name: 爱丽丝" in gsv("voices", "show", "爱丽丝").stdout
    assert failed(gsv("voices", "show", "bob")) == "NAME: got 'bob'; allowed: 爱丽丝"


def test_doctor_finds_what_is_wrong(gsv: Invoke) -> None:
    result = gsv("doctor")
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("error")]
    assert [line.split()[1] for line in lines] == [
        "vocoder/1", "gpt_sovits_v4_stream", "gpt_sovits_v4",
    ]  # fmt: skip
    assert "no weights" in lines[0]
    findings = json.loads(gsv("doctor", "--json").stdout)
    assert {"level", "subject", "message", "advice"} == set(findings[0])


def test_doctor_where_the_list_of_models_is_closed(gsv: Invoke, models: Models) -> None:
    models.key = "secret"
    out = gsv("doctor").stdout
    assert "the list of models is closed" in out
    assert "→ to see each model's state, send that header: --header NAME:VALUE" in out
    assert "vocoder/1" not in out
    assert "vocoder/1" in gsv("doctor", "--header", "x-key: secret").stdout
    assert gsv("doctor", "--header", "secret").exit_code == 2


def test_doctor_without_a_server() -> None:
    result = CliRunner().invoke(main, ["doctor", "--url", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no server answers at http://127.0.0.1:1" in result.stdout


def run(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*GSV, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload]


def test_ctrl_c_ends_quietly_with_130(address: str, models: Models, tmp_path: Path) -> None:
    with run("say", "--stream", "count 1000", "-o", "-", "--url", address) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(44)) == 44  # it speaks
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    assert models.cancelled.wait(2)


def test_a_reader_that_leaves_ends_it_quietly(address: str, models: Models) -> None:
    with run("say", "--stream", "count 1000", "-o", "-", "--url", address) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(44)
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""
    assert models.cancelled.wait(2)


@pytest.mark.parametrize("format_name", ["wav", "raw"])
def test_a_file_that_the_shell_appends_to_keeps_what_it_has(
    address: str, tmp_path: Path, format_name: str
) -> None:
    path = tmp_path / "all.bin"
    path.write_bytes(b"before")
    arguments = ["say", "--stream", "Hello.", "-o", "-", "--format", format_name, "--url", address]
    with path.open("ab") as out:
        done = subprocess.run([*GSV, *arguments], stdout=out, stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == 0, done.stderr
    data = path.read_bytes()
    header = 44 if format_name == "wav" else 0
    assert data.startswith(b"beforeRIFF" if header else b"before")
    assert len(data) == len(b"before") + header + 3 * 2 * CHUNK


def test_text_is_spoken_while_it_is_written(address: str) -> None:
    """Audio of the first sentence comes before stdin ends; Ctrl-C is heard while waiting."""
    arguments = ["say", "--stream", "-o", "-", "--format", "raw", "--url", address]
    with run(*arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"The first sentence. The")
        process.stdin.flush()
        assert len(process.stdout.read(6 * CHUNK)) == 6 * CHUNK
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""


def test_stdout_on_a_terminal_is_refused() -> None:
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            [*GSV, "say", "x", "-o", "-"], stdout=follower, stderr=subprocess.PIPE, timeout=20
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2
    assert b"stdout is a terminal" in done.stderr


def test_phones_tells_changes_and_what_is_not_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = {
        **{"language": "en", "text": "It’s", "normalized": "It's", "phonemes": ["a"], "ids": [1]},
        **{"word2ph": None, "unread": ["Ж"]},
        "changes": [
            {"written": "’", "spoken": "'", "reason": "apostrophe"},
            {"written": "\u200b", "spoken": "", "reason": "invisible"},
        ],
    }
    sentence = {
        **{"text": "It’s", "normalized": "It's", "pause_after": None, "segments": [segment]},
        "unread": ["Ж"],
    }
    monkeypatch.setattr("gsv_client.testing._analysis", lambda text: {"sentences": [sentence]})
    with Client(transport=FakeTransport()) as client:
        analysis = client.phones("It’s")
    assert analysis.sentences[0].segments[0].changes[0].reason == "apostrophe"
    assert analysis.sentences[0].unread == ("Ж",)
    _print(analysis)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "’ → ': apostrophe" in lines
    assert "<U+200B> → (nothing): invisible" in lines
    assert lines[-1] == "not read: Ж"


def test_what_cannot_be_seen_is_shown_by_its_code() -> None:
    assert shown("a\u200b\tb c") == "a<U+200B><U+0009>b c"
