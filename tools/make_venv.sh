#!/usr/bin/env bash
# Makes .venv with everything that the other targets need. Called by `make venv`; needs no root.
#
#   PYTHON      the Python to use (3.10 to 3.12); found by itself if not given
#   TORCH_ARGS  more arguments for pip when it installs torch, such as
#               "--index-url https://download.pytorch.org/whl/cpu" for the small CPU build
#   PIP_ARGS    more arguments for every call of pip
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "make venv: $1" >&2
    exit 1
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3 python3.12 python3.11 python3.10; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 found; install one, or name it: make venv PYTHON=/path/to/python3"
}

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$(find_python)
elif ! supported "$python"; then
    fail "$python is not Python 3.10, 3.11 or 3.12"
fi

case "$(uname -sm)" in
"Linux x86_64" | "Linux aarch64") ;;
*) fail "$(uname -sm): the embedded tritonserver exists for Linux only" ;;
esac

# One that was moved or whose Python was removed does not start any more.
if [ -e .venv ] && ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    echo "make venv: making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv || {
        rm -rf .venv
        fail "$python can't make virtual environments (Debian and Ubuntu: apt install python3-venv)"
    }
fi

install() {
    # Not quoted: these are lists of arguments.
    # shellcheck disable=SC2086
    .venv/bin/python -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
        --constraint constraints.txt "$@" ||
        fail "pip could not install what is needed; its message stands above"
}

echo "make venv: installing torch (the largest part)" >&2
# shellcheck disable=SC2086
install ${TORCH_ARGS:-} torch
echo "make venv: installing gsv, gsv-client and the tools" >&2
install --requirement requirements-dev.txt --editable 'client[gateway]' \
    --editable 'backend[server,text,japanese,g2pw]'
echo "make venv: bringing text data (38 MB), so that all languages are read as upstream reads them" >&2
.venv/bin/python -m gsv.checkpoints.text_install --pip-options="${PIP_ARGS:-}" ||
    echo "make venv: without it Japanese is refused and English is guessed in part; to try again:" \
        ".venv/bin/python -m gsv.checkpoints.text_install" >&2
touch .venv/.installed
echo "make venv: ready; activate it with: . .venv/bin/activate" >&2
