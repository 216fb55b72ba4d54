#!/usr/bin/env bash
# Runs the unit tests on other Pythons and with NumPy 1 or 2, each in an environment of its own.
#
#   tools/check_pythons.sh [--work FOLDER] [--whole] PYTHON NUMPY [PYTHON NUMPY ...]
#   tools/check_pythons.sh 3.10 1 3.10 2 3.12 1 3.12 2
#
#   --work   folder of the environments, which are kept (default: build/pythons)
#   --whole  also installs torch and runs all unit tests (5 GB with the build for CUDA); without it: the
#            client, its gateway and everything else that needs no torch
#   PYTHON   3.10, 3.11 or 3.12, or the path of such a program
#   NUMPY    1 or 2; constraints.txt names the version of 1, the newest one is taken of 2
#
#   TORCH_ARGS, PIP_ARGS  as for tools/make_venv.sh
#   PYTEST_ARGS           more arguments for pytest
set -euo pipefail
cd "$(dirname "$0")/.."

work=build/pythons
if [ "${1:-}" = --work ]; then
    work=$2
    shift 2
fi
whole=
if [ "${1:-}" = --whole ]; then
    whole=yes
    shift
fi
if [ $# -eq 0 ] || [ $(($# % 2)) -ne 0 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

# Tests of the parts that import neither torch nor what is compiled for this machine.
light=(tests/client tests/gateway tests/test_limits.py tests/test_extras.py tests/text/test_split.py)

# What these expect, our own package adds to the client, and it needs torch; or a recogniser.
whole_only=(tests/client/test_cli.py::test_every_command_has_help_with_examples
    tests/client/test_cli.py::test_doctor_finds_what_is_wrong
    tests/gateway/test_own_door.py::test_a_voice_is_added
    'tests/gateway/test_gateway_docs.py::test_the_python_runs[gateway-page.md-0]'
    'tests/gateway/test_gateway_docs.py::test_the_curl_runs[gateway-page.md-0]'
    tests/client/test_quality_bench.py::test_the_recogniser_hears_each_wave_by_itself
    tests/client/test_quality_bench.py::test_the_speaker_judge_does_without_old_setuptools)

environment() {
    # $1: Python, $2: 1 or 2, $3: folder
    local python=$1 numpy=$2 folder=$3
    case $python in
    */*) ;;
    *) python=$(command -v "python$python" || uv python find "$python") ;;
    esac
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    mkdir -p "$work"
    # What is tested is the range that the packages allow; the pins of one NumPy don't apply to 2.
    if [ "$numpy" = 1 ]; then
        cp constraints.txt "$folder/constraints.txt"
    else
        grep -vE '^(numpy|nvidia-pytriton)==' constraints.txt >"$folder/constraints.txt"
        echo "numpy>=2" >>"$folder/constraints.txt"
    fi
    # Not quoted: these are lists of arguments.
    # shellcheck disable=SC2086
    install() {
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} \
            --constraint "$folder/constraints.txt" "$@"
    }
    if [ -n "$whole" ]; then
        # shellcheck disable=SC2086
        install ${TORCH_ARGS:-} torch
        install --requirement requirements-dev.txt --editable 'client[gateway,bench]' \
            --editable 'backend[text,japanese,g2pw]'
        "$folder/bin/python" -m gsv.checkpoints.text_install --pip-options="${PIP_ARGS:-}"
    else
        install pytest hypothesis httpx openai requests selenium axe-core-python \
            'tritonclient[http]' "tomli; python_version<'3.11'" --editable 'client[gateway,bench]'
    fi
}

failed=()
while [ $# -gt 0 ]; do
    name=$(basename "$1")-numpy$2
    folder=$work/$name
    echo "== $name: installing"
    environment "$1" "$2" "$folder"
    "$folder/bin/python" -c 'import numpy, sys; print("== Python", sys.version.split()[0], "numpy", numpy.__version__)'
    tests=("${light[@]}" "${whole_only[@]/#/--deselect=}")
    # The embedded server, which some of these want to be installed, asks for NumPy 1.
    [ -z "$whole" ] || tests=(tests --deselect=tests/serving/test_server_surroundings.py::TestInstallation)
    # shellcheck disable=SC2086
    PYTHONPATH=$([ -n "$whole" ] || echo backend) "$folder/bin/python" -m pytest -q \
        -m "not golden and not golden_text and not full and not server and not gpu and not pretend" \
        "${tests[@]}" ${PYTEST_ARGS:-} || failed+=("$name")
    shift 2
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
