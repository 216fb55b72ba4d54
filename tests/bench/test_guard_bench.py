"""The guard's cost is measured on what the engine hands on."""

from __future__ import annotations

import json

from click.testing import CliRunner

from gsv.bench.guard import main


def test_shares_follow_the_step() -> None:
    result = CliRunner().invoke(main, ["--step-ms", "10", "--rows", "4", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for values in found.values():
        assert values["us_per_token"] > 0
        assert abs(values["share_of_step"] - 4 * values["us_per_token"] / 10_000) < 1e-12
    lines = CliRunner().invoke(main, ["--step-ms", "10"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["whole", "stream"]
