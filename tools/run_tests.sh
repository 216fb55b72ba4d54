#!/usr/bin/env bash
# Runs the test levels one after another, cheapest first. A level that collects nothing fails (pytest
# exits with 5): a test that silently vanished is a failure too.
#
#   GSV_REQUIRE_ORACLE=1  missing oracle folders are an error, not just "not run" (CI)
#   GSV_GOLDEN, GSV_GOLDEN_TEXT, GSV_TEXT_DATA  where they are
#   PYTEST_ARGS           more arguments for every call of pytest
set -euo pipefail
cd "$(dirname "$0")/.."

# Several workers on few cores only get in each other's way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
golden=${GSV_GOLDEN:-../shared/golden/open}
golden_text=${GSV_GOLDEN_TEXT:-../shared/golden_text/open}
text_data=${GSV_TEXT_DATA:-../shared/text_data}

level() {
    local name=$1 markers=$2
    shift 2
    echo "== tests: $name"
    # shellcheck disable=SC2086
    .venv/bin/python -m pytest -q --durations=10 --durations-min=5 -m "$markers" "$@" ${PYTEST_ARGS:-}
}

not_run() {
    echo "== tests: $1: NOT RUN, $2"
}

require() {
    # $1: what it is, $2: a pattern that matches where it is
    if ! compgen -G "$2" >/dev/null && [ -n "${GSV_REQUIRE_ORACLE:-}" ]; then
        echo "tests: no $1: nothing is at $2, and GSV_REQUIRE_ORACLE asks for it" >&2
        exit 1
    fi
}

require "full-size acoustic cases" "$golden/full_*.npz"
require "text cases" "$golden_text/*"
require "lexica" "$text_data/*"

level "units and tiny models" "not golden and not golden_text and not full and not server and not gpu and not pretend"
level "GPU code on a pretended GPU" "pretend" tests/pretended
level "acoustic parity (tiny)" "golden and not full and not server and not gpu"
level "text parity" "golden_text and not server"
compgen -G "$golden_text/*" >/dev/null || not_run "all text cases" "nothing in $golden_text"
if compgen -G "$golden/full_*.npz" >/dev/null; then
    OMP_NUM_THREADS=$(nproc) level "acoustic parity (full size)" "full and not server and not gpu"
else
    not_run "acoustic parity (full size)" "no full_*.npz in $golden"
fi
if .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    level "GPU" "gpu"
else
    not_run "GPU" "torch sees no CUDA device"
fi
level "real server" "server and not gpu"
