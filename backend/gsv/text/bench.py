"""How long the text frontend takes to start and to read, and how much memory it holds.

    python -m gsv.text.bench [--text-data FOLDER] [--repeats N]

For each language: the time to load it, then the processor time for a hundred characters, median and
worst over texts that were never read before. On one core, BERT apart.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SIZE = 100  # characters
# Words to make ever new texts of; some of them no dictionary has.
_WORDS = {
    "zh": "今天 天气 真好 ， 我们 去 公园 散步 ； 重庆 银行 一会儿 不 看 2024年 。",
    "yue": "佢 個 鋤頭 太短 啦 ， 我哋 去 公園 行 下 ； 香港 銀行 唔 睇 3個 。",
    "ja": "今日は とても いい 天気 ですね 、 東京 で コーヒー を 三杯 飲みました 。",
    "ko": "오늘은 날씨가 정말 좋네요 , 저는 학교에서 한국어를 공부합니다 3번 .",
    "en": "The old record shows , they will read it twice blockchains Washington 12.5 .",
}


def texts(language: str, count: int) -> Iterator[str]:
    """Different texts of a hundred characters each."""
    words = _WORDS[language].split()
    between = " " if language in ("en", "ko") else ""
    for number in range(count):
        picked: list[str] = []
        place = number
        while len(between.join(picked)) < _SIZE:
            place = (place * 7 + number + 3) % 1009
            picked.append(words[place % len(words)])
        yield between.join(picked)[:_SIZE]


def memory() -> int:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(arguments: list[str] | None = None) -> int:
    """Measure and write a table."""
    parser = argparse.ArgumentParser(prog="python -m gsv.text.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--text-data", type=Path, help="text data, as `gsv prepare` lays it out")
    parser.add_argument("--repeats", type=int, default=100, help="texts a language")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    start = time.perf_counter()
    from gsv.text.frontend import TextFrontend

    frontend = TextFrontend(options.text_data)
    _report("import", time.perf_counter() - start)
    start = time.perf_counter()
    frontend.warm_up([])
    _report("segmenter", time.perf_counter() - start)
    for language in _WORDS:
        start = time.perf_counter()
        frontend.warm_up([language])
        loaded = time.perf_counter() - start
        times = []
        for text in texts(language, options.repeats):
            start = time.process_time()
            frontend.analyze(text, language)
            times.append(1000 * (time.process_time() - start))
        _report(
            f"{language} load",
            loaded,
            f"{_SIZE} characters: median {statistics.median(times):5.2f} ms, "
            f"worst {max(times):5.2f} ms",
        )
    return 0


def _report(name: str, seconds: float, more: str = "") -> None:
    sys.stdout.write(f"{name:10s} {seconds:6.2f} s {memory():5d} MB   {more}\n")


if __name__ == "__main__":
    sys.exit(main())
