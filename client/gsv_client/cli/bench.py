"""`gsv bench`: load a running server and report."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gsv_client import __version__
from gsv_client.audio import Audio
from gsv_client.bench import metrics, plots
from gsv_client.bench.judges import Judge, SoundJudge, SpeakerJudge, WordJudge
from gsv_client.bench.load import Text, closed_loop, load_texts, open_loop, speaker
from gsv_client.bench.quality import HEADER as QUALITY_HEADER
from gsv_client.bench.quality import Panel, QualityRun, Way, everyday_texts, speak_all
from gsv_client.bench.quality import row as quality_row
from gsv_client.bench.report import FORMAT, HEADER, Run, row
from gsv_client.cli.common import (
    header_option,
    language_option,
    print_json,
    print_table,
    sampling_options,
    speech_options,
    talk,
    timeout_option,
    voice_options,
)
from gsv_client.client import Client
from gsv_client.errors import GsvClientError
from gsv_client.options import SpeechOptions
from gsv_client.transport import Endpoint

Number = TypeVar("Number", int, float)
METRICS_PORT = 8002
WARM_UP_REQUESTS = 2
QUALITY_CALLERS = [1, 8]
JUDGES = ("words", "dnsmos", "speaker")


def _list_of(kind: type[Number]) -> Callable[[Any, Any, str | None], list[Number]]:
    """Click callback: comma-separated numbers above 0."""

    def parse(_context: Any, _parameter: Any, value: str | None) -> list[Number]:
        try:
            numbers = [kind(part) for part in (value or "").split(",") if part.strip()]
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: give numbers with commas between") from error
        if any(number <= 0 for number in numbers):
            raise click.BadParameter(f"{value!r}: each must be above 0")
        return numbers

    return parse


@click.command(short_help="Measure a running server under load.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    envvar="GSV_URL",
    show_envvar=True,
    metavar="URL",
    help="Server, with http:// or grpc://; may be given several times.  [default: localhost:8000]",
)
@timeout_option
@header_option
@click.option("--unary", is_flag=True, help="Measure whole answers (the default).")
@click.option("--stream", is_flag=True, help="Measure streams; with --unary both.")
@click.option(
    "-c", "--concurrency", callback=_list_of(int), metavar="LIST",
    help="Closed loop: so many callers at once, each asking again when served.  [default: 1,4]",
)  # fmt: skip
@click.option(
    "--rate", callback=_list_of(float), metavar="LIST",
    help="Open loop: requests per second at random moments (Poisson).",
)  # fmt: skip
@click.option("-n", "--requests", type=click.IntRange(1), default=24, show_default=True,
              help="Requests in each run; with --quality texts.")  # fmt: skip
@click.option(
    "--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON list of {id, language, text} instead of the bundled texts.",
)  # fmt: skip
@click.option("--quality", is_flag=True, help="Judge the speech instead of its speed.")
@click.option(
    "--judge", "judges", type=click.Choice(JUDGES), multiple=True,
    help="With --quality: words understood (English), DNSMOS, likeness to --speaker; any number.",
)  # fmt: skip
@click.option("--speaker", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="FILE", help="A recording of the speaker, for --judge speaker.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="With --quality: seeds that each text is spoken with.")  # fmt: skip
@click.option("--metrics-url", metavar="URL", help="[default: port 8002 of the first server]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write all figures as JSON.")  # fmt: skip
@click.option("--plots", "plots_folder", type=click.Path(file_okay=False, path_type=Path),
              metavar="DIR", help="Write PNG plots (needs matplotlib).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of a table.")
@speech_options(language_option, voice_options, sampling_options)
def bench(
    urls: tuple[str, ...],
    timeout: float,
    headers: dict[str, str],
    unary: bool,
    stream: bool,
    concurrency: list[int],
    rate: list[float],
    requests: int,
    texts: Path | None,
    quality: bool,
    judges: tuple[str, ...],
    speaker: Path | None,
    seeds: int,
    metrics_url: str | None,
    output: Path | None,
    plots_folder: Path | None,
    as_json: bool,
    options: SpeechOptions,
) -> None:
    """Measure a running server under load, with a fixed set of texts of mixed lengths.

    Times in the table are in ms. RTF is latency over audio, STEADY the share of streams that would
    never let a player run dry, GAP the longest wait between two chunks, ROWS the mean batch of a
    step of the semantic GPT and of flow matching. Exit code 1 if any request failed.

    With --quality everyday sentences (or --texts) are spoken with and without the guard, by one
    caller and by eight (or -c), whole (or --stream). BAD is the share of sentences with something
    wrong in them, RETRIED of those drawn again, LONG of those over twice their expected length;
    TOKENS is what was kept, DRAWN what was drawn for it. Then come the judges, which need the extra
    gsv-client[quality].

    \b
    Examples:
      gsv bench --url localhost:8000 -c 1,2,4,8
      gsv bench --stream --url grpc://localhost:8001 -c 1,2,4,8,16 -o bench.json
      gsv bench --rate 0.5,1,2 --url http://localhost:8000 --url grpc://localhost:8001 --plots out
      gsv bench --quality --voice demo --judge words --unary --stream -c 1,8 -n 20
    """
    modes = [
        mode for mode, wanted in (("unary", unary or not stream), ("stream", stream)) if wanted
    ]
    if quality:
        if rate or plots_folder:
            raise click.UsageError("--quality has no --rate and no --plots.")
        panel = Panel({name: _judge(name, speaker) for name in judges})
        ways = [
            Way(mode, callers, guard)
            for mode in modes
            for callers in concurrency or QUALITY_CALLERS
            for guard in (True, False)
        ]
        spoken = everyday_texts(texts)[:requests]
        with Client(urls[0] if urls else None, timeout=timeout, headers=headers) as client:
            version = client.health().version
            judged = [
                _judged(client, options, spoken, range(1, seeds + 1), way, panel) for way in ways
            ]
        report = _report([run.as_dict() for run in judged], spoken, version, options)
        rows = [quality_row(run) for run in judged]
        _show(report, output, as_json, (*QUALITY_HEADER, *map(str.upper, judges)), rows)
        _fail_on_errors([run.figures()["errors"] for run in judged])
        return
    if judges or speaker:
        raise click.UsageError("--judge and --speaker belong to --quality.")
    if plots_folder:
        plots.check_matplotlib()
    kept = load_texts(texts)
    loads = [("closed", float(c)) for c in concurrency or ([] if rate else [1, 4])]
    loads += [("open", r) for r in rate]
    runs, version = [], ""
    metrics_at = metrics_url or _metrics_url(urls)
    for url in urls or ("http://localhost:8000",):
        with Client(url, timeout=timeout, headers=headers) as client:
            version = client.health().version
            for mode in modes:
                runs += _series(client, mode, loads, kept, requests, options, metrics_at)
    if plots_folder:
        for path in plots.draw(runs, plots_folder):
            talk(f"{path}: written")
    report = _report([run.as_dict() for run in runs], kept, version, options)
    _show(report, output, as_json, HEADER, [row(run) for run in runs])
    _fail_on_errors([run.figures()["errors"] for run in runs])


def _judge(name: str, speaker: Path | None) -> Judge:
    if name == "words":
        return WordJudge()
    if name == "dnsmos":
        return SoundJudge()
    if speaker is None:
        raise click.UsageError("--judge speaker needs --speaker FILE, a recording of the speaker.")
    return SpeakerJudge(Audio.read(speaker))


def _judged(
    client: Client,
    options: SpeechOptions,
    texts: list[Text],
    seeds: range,
    way: Way,
    panel: Panel,
) -> QualityRun:
    guard = "with" if way.guard else "without"
    talk(f"{way.mode}, {way.concurrency} at once, {guard} the guard: {len(texts)} texts …")
    answers = speak_all(client, options, texts, seeds, way)
    return QualityRun(way, answers, panel.scores(answers, talk))


def _show(
    report: dict[str, Any],
    output: Path | None,
    as_json: bool,
    header: tuple[str, ...],
    rows: list[tuple[str, ...]],
) -> None:
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        talk(f"{output}: written")
    if as_json:
        print_json(report)
    else:
        print_table(header, rows)


def _series(
    client: Client,
    mode: str,
    loads: list[tuple[str, float]],
    texts: list[Text],
    requests: int,
    options: SpeechOptions,
    metrics_url: str,
) -> list[Run]:
    """One run for each load."""
    speak = speaker(client, options, stream=mode == "stream")
    closed_loop(speak, texts, concurrency=1, requests=WARM_UP_REQUESTS)
    runs = []
    for loop, load in loads:
        talk(f"{client.transport.address} {mode} {loop} {load:g}: {requests} requests …")
        before = _scrape(metrics_url)
        if loop == "closed":
            outcomes, seconds = closed_loop(speak, texts, int(load), requests)
        else:
            outcomes, seconds = open_loop(speak, texts, load, requests)
        after = _scrape(metrics_url)
        counted = metrics.compare(before, after) if before and after else None
        runs.append(Run(client.transport.address, mode, loop, load, outcomes, seconds, counted))
    return runs


def _scrape(url: str) -> metrics.Samples | None:
    try:
        return metrics.scrape(url)
    except GsvClientError as error:
        talk(f"without the server's own figures: {error}; give another address with --metrics-url")
        return None


def _metrics_url(urls: tuple[str, ...]) -> str:
    endpoint = Endpoint.parse(urls[0] if urls else None)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"http://{host}:{METRICS_PORT}/metrics"


def _report(
    runs: list[dict[str, Any]], texts: list[Text], version: str, options: SpeechOptions
) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if value is not None}
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "client": __version__,
        "triton": version,
        "options": {name: str(value) for name, value in given.items()},
        "texts": [text.id for text in texts],
        "runs": runs,
    }


def _fail_on_errors(found: list[dict[str, int]]) -> None:
    """Of each run the errors and how many there were."""
    errors = [error for of_run in found for error in of_run]
    if errors:
        count = sum(sum(of_run.values()) for of_run in found)
        raise click.ClickException(f"{count} requests failed, the first with: {errors[0]}")
