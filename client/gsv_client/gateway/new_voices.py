"""A voice added through HTTP, by the same command as on the server's own command line."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gsv_client.cli.plugins import points
from gsv_client.errors import InvalidRequest, ServerError
from gsv_client.gateway.recordings import cut, decoded, from_base64, inspected
from gsv_client.gateway.voice_names import VOICE_NAME
from gsv_client.limits import LANGUAGES

ADDING_SECONDS = 120.0  # the command imports torch, to read checkpoints
AT_ONCE = asyncio.Semaphore(1)
# NUL and halves of surrogate pairs, which an argument of a command can't hold.
_NO_TEXT = frozenset(map(chr, (0, *range(0xD800, 0xE000))))
_COMMAND = "from gsv_client.cli import main; main()"


class NewVoiceFields(BaseModel):
    """A recording and what is said in it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    reference: str  # a sound file in base64, or a data: URL
    reference_window: tuple[float, float] | None = None
    reference_text: str
    language: str


def check_can_add() -> None:
    """InvalidRequest where the command that adds voices is not installed."""
    if not any(point.name == "add" for point in points("gsv.voices")):
        raise InvalidRequest(
            "--voices: adding voices needs the backend package beside the gateway: "
            "pip install ./backend"
        )


async def add_voice(folder: Path, fields: NewVoiceFields) -> dict[str, Any]:
    """Check and add; a running server offers the voice within a second.

    Returns:
        What `gsv voices add --json` tells.

    Raises:
        InvalidRequest: the name, the text or the recording is refused; nothing was written.
    """
    # A further recording of a voice that is there (NAME/RECORDING) is for the operator to add.
    if not VOICE_NAME.fullmatch(fields.name) or "/" in fields.name:
        raise InvalidRequest.value(
            "name", fields.name[:100],
            "letters, digits, '_', '.' and '-', up to 64, beginning with a letter or digit",
        )  # fmt: skip
    if fields.language not in LANGUAGES:
        raise InvalidRequest.value("language", fields.language[:50], ", ".join(LANGUAGES))
    text = fields.reference_text
    if not text.strip() or len(text) > 1_000 or not _NO_TEXT.isdisjoint(text):
        raise InvalidRequest("reference_text: allowed: what is said in it, up to 1000 characters")
    audio = await decoded(from_base64(fields.reference, "reference"), "reference")
    if fields.reference_window:
        audio = cut(audio, *fields.reference_window)
    # The command checks both again; here they cost no new process.
    report = await inspected(audio)
    if not report.usable:
        found = "; ".join(f"{r.message}: {r.advice}" for r in report.remarks if r.level == "error")
        raise InvalidRequest(f"reference: {found}")
    if (folder / fields.name).exists():
        raise InvalidRequest(
            f"name: there is a voice {fields.name!r} already; allowed: a new name, or ask the "
            "operator to remove that one"
        )
    with tempfile.TemporaryDirectory(prefix="gsv-gateway-") as scratch:
        file = Path(scratch) / "reference.wav"
        await asyncio.to_thread(audio.save, file)
        arguments = [
            f"--reference={file}", f"--text={fields.reference_text}",
            f"--language={fields.language}", f"--voices={folder}", "--json", "--", fields.name,
        ]  # fmt: skip
        async with AT_ONCE:
            out, err, code = await _run("voices", "add", *arguments)
    if code:
        # The command's words, without the way to the scratch file.
        message = err.strip().splitlines()[-1] if err.strip() else "the command failed"
        raise InvalidRequest(message.removeprefix("Error: ").replace(str(file), "the recording"))
    try:
        facts: dict[str, Any] = json.loads(out)
    except ValueError as error:
        raise ServerError(f"gsv voices add --json printed no JSON: {out[:200]!r}") from error
    return {"name": fields.name, "language": fields.language, "recording": facts["recording"]}


async def _run(*arguments: str) -> tuple[str, str, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COMMAND, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), ADDING_SECONDS)
    except asyncio.TimeoutError:  # noqa: UP041 (not TimeoutError before Python 3.11)
        raise ServerError(f"gsv {arguments[0]} ran for {ADDING_SECONDS:g} s") from None
    finally:
        if process.returncode is None:  # cancelled too: no process may stay behind
            process.kill()
            await process.wait()
    return out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), process.returncode or 0
