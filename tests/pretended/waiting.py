"""Where the host may wait for a GPU while somebody listens: a complete list.

A wait costs the time of everything that the GPU has been told before, and nothing new is queued
meanwhile. So each needs a reason, and a new one fails ``test_product_on_a_gpu.py``. A wait for an
event that is expected to be over costs nothing, but it stands here as well. Entries are functions,
so that edits within them change nothing.
"""

from __future__ import annotations

from pretend_cuda import Log, Site

# Beneath these functions everything may wait: nobody listens yet, or only whoever brought a voice.
LOADING = {
    Site("offline.py", "__init__"): "a model is loaded, warmed up and captured",
    Site("stages/semantic_gpt.py", "_load"): "a voice's own GPT is loaded and captured",
    Site("stages/sovits_voices.py", "load"): "a voice's own SoVITS or LoRA is loaded",
}

ALLOWED = {
    Site("audio.py", "log_mel"): "filters go up, once a reference",
    Site("audio.py", "resample_sinc"): "filters go up, once a reference",
    Site("models/pretrained.py", "forward"): "BERT's features come down",
    Site("stages/reference_encoder.py", "_encode"): "a reference's features come down, once",
    Site("stages/reference_encoder.py", "_encode_voice"): "a voice's recording goes up, once",
    Site("engine/transfers.py", "wait"): "numbers come down: copied behind their step, waited for "
    "when the next is queued",
    Site("engine/gpt/alignment.py", "_sharpest_heads"): "where a sentence's heads look comes down, "
    "when it is drawn; on a thread of its own",
    Site("engine/step_queue.py", "land"): "a step is over; another one is queued behind it",
    Site("stages/sovits_v4.py", "_prepare"): "conditions are computed, before flow steps read them "
    "on another thread",
}


def unlisted(log: Log) -> list[str]:
    """Waits that are in no list, each as a line to add or a place to mend."""
    return sorted(
        f'Site("{wait.site.file}", "{wait.site.function}")  # {wait.what}, {count} times, '
        f"last at {log.lines[wait]}"
        for wait, count in log.waits.items()
        if wait.site not in ALLOWED
    )


def unneeded(log: Log) -> list[str]:
    """Entries of the lists that never waited."""
    left = [site for site in ALLOWED if site not in log.sites]
    left += [site for site in LOADING if site not in log.loaded]
    return sorted(f'Site("{site.file}", "{site.function}")' for site in left)
