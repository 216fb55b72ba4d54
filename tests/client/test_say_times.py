"""Times of words and reports: asked for, parsed, written beside the audio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gsv_client import Audio, Client, SentenceReport, WordTime
from gsv_client.cli import main
from gsv_client.cli.common import Connection
from gsv_client.testing import FakeTransport

TEXT = "Hello there. Good dog."


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTransport:
    fake = FakeTransport(times=True)
    monkeypatch.setattr(Connection, "open", lambda self: Client(transport=fake))
    monkeypatch.chdir(tmp_path)
    return fake


def say(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["say", *arguments], input=stdin)


def test_an_answer_carries_them_only_when_they_are_asked_for() -> None:
    client = Client(transport=(fake := FakeTransport(times=True)))
    bare = client.say(TEXT)
    assert (bare.times, bare.report) == ((), ())
    assert fake.requests[-1].outputs == ("AUDIO", "SAMPLE_RATE")
    audio = client.say(TEXT, times=True, report=True)
    assert audio.times[0] == WordTime("Hello", 0.0, audio.times[0].end, 0)
    assert audio.report[0].retries == ("loop",)
    assert audio.report[0].details["text"] == TEXT


def test_a_stream_declines_what_is_not_asked_for() -> None:
    """HTTP's generate_stream gives all outputs otherwise."""
    client = Client(transport=(fake := FakeTransport(times=True)))
    for asked, declined in (
        ({}, ("TIMES", "REPORT")),
        ({"times": True}, ("REPORT",)),
        ({"times": True, "report": True}, ()),
    ):
        list(client.stream(TEXT, **asked))
        assert fake.requests[-1].declined == declined


def test_chunks_carry_them_and_joined_audio_all_of_them() -> None:
    chunks = list(Client(transport=FakeTransport(times=True)).stream(TEXT, times=True, report=True))
    assert [len(chunk.report) for chunk in chunks].count(1) == 2
    joined = Audio.join(chunks)
    assert [time.word for time in joined.times] == ["Hello", "there", "Good", "dog"]
    assert len(joined.report) == 2


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_say_writes_captions_times_and_the_report(
    transport: FakeTransport, stream: list[str]
) -> None:
    files = ["--srt", "a.srt", "--vtt", "a.vtt", "--times", "a.json"]
    result = say(TEXT, *stream, *files, "--report")
    assert result.exit_code == 0, result.output
    assert Path("a.srt").read_text().startswith("1\n00:00:00,000 --> ")
    assert Path("a.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:00.000 --> ")
    words = json.loads(Path("a.json").read_text())
    assert [word["word"] for word in words] == ["Hello", "there", "Good", "dog"]
    assert words[0]["start"] == 0
    lines = result.stderr.splitlines()
    assert lines[0].startswith("1. ")
    assert "drawn again for loop: Hello there." in lines[0]


def test_captions_of_a_text_that_is_still_written_are_refused(transport: FakeTransport) -> None:
    result = say("-", "--stream", "--srt", "a.srt", stdin=TEXT)
    assert result.exit_code == 2
    assert "one text" in result.stderr


def test_a_file_that_cannot_be_written_is_told(transport: FakeTransport) -> None:
    result = say(TEXT, "--srt", "no/such/folder/a.srt")
    assert result.exit_code == 1
    assert "a.srt" in result.stderr


def test_no_guard_is_sent(transport: FakeTransport) -> None:
    say(TEXT)
    assert "GUARD" not in transport.requests[-1].inputs
    say(TEXT, "--no-guard")
    assert transport.requests[-1].inputs["GUARD"].item() == 0


def test_a_report_in_words() -> None:
    report = SentenceReport("Hi.", 3, 50, 2.0, ("run", "too_long"), 7, ("run",))
    assert report.line() == (
        "2.00 s, 3 phonemes, 50 tokens; drawn again for run, too_long; still wrong: run: Hi."
    )
