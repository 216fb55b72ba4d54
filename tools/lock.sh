#!/usr/bin/env bash
# Writes constraints.txt: the versions that `make venv` and the container install, for Python 3.10
# to 3.12 on Linux. Needs uv (pip install uv) on PATH, and a network.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/pyproject.toml" <<'TOML'
[project]
name = "lock"
version = "0"
requires-python = ">=3.10,<3.13"
[tool.uv]
environments = ["sys_platform == 'linux' and python_version < '3.13'"]
TOML
cat requirements-dev.txt - >"$scratch/all.in" <<EOT
torch==2.13.0
-e $PWD/client[gateway]
-e $PWD/backend[server,text,japanese,g2pw]
EOT
(cd "$scratch" && uv pip compile --quiet --universal --python-version 3.10 \
    --no-emit-package gsv-client --no-emit-package gsv --no-annotate --no-header all.in) \
    >"$scratch/versions"
{
    echo "# Versions for Python 3.10 to 3.12 on Linux, written by tools/lock.sh."
    # The paths of the two packages are left out, and so is the marker that all lines have in common.
    grep -v '^-e ' "$scratch/versions" |
        sed -E "s/ and sys_platform == 'linux'//g; s/ and python_full_version < '3.13'//; \
                s/ ; python_full_version < '3.13'$//; s/python_full_version < '3.13' and //"
} >constraints.txt
