"""`gsv gateway`: what it refuses to do, and that it serves and stops."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from gsv_client.cli import main
from gsv_client.gateway.keys import KeyRing

COMMAND = [sys.executable, "-c", "from gsv_client.cli import main; main()", "gateway"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "give --keys FILE (make one with --new-key NAME), or --open"),
        (["--alias", "alloy"], "give NAME=VOICE"),
        (["--keys", "nothing"], "does not exist"),
        (["--body-limit", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    shown = CliRunner().invoke(main, ["gateway", *arguments])
    assert shown.exit_code == 2
    assert words in " ".join(shown.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://localhost:8000"], "protocol"),
        (["--timeout", "-1"], "timeout"),
        (["--new-key", "a b"], "name of the key"),
        (["--host", "256.1.1.1", "--open"], "256.1.1.1:9880"),
    ],
)
def test_errors_are_one_line(arguments: list[str], words: str) -> None:
    shown = CliRunner().invoke(main, ["gateway", *arguments])
    assert shown.exit_code == 1
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_new_key(tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["gateway", "--new-key", "alice"])
    assert shown.exit_code == 0
    file = tmp_path / "keys"
    file.write_text(shown.stderr)
    assert KeyRing(file).name_of(shown.stdout.strip()) == "alice"


def test_a_keys_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("alice secret\n")
    shown = CliRunner().invoke(main, ["gateway", "--port", "0", "--keys", str(file)])
    assert shown.exit_code == 1
    assert "line 1 is not `NAME HASH`" in shown.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['fastapi'] = None; from gsv_client.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "gateway"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert 'pip install "gsv-client[gateway]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_serves_and_stops_in_good_order() -> None:
    """Without a Triton: health is its own, readiness is not there."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", "--url", "127.0.0.1:9"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_PROXY": "*"},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"listening on (http://127\.0\.0\.1:\d+/)", line)
        assert match, line
        url = match[1]
        assert httpx.get(f"{url}health").json()["status"] == "ok"
        assert httpx.get(f"{url}ready").status_code == 503
        assert "<title>" in httpx.get(url).text
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
        assert "GET /ready 503" in rest
        assert "Traceback" not in rest
        assert process.returncode in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
