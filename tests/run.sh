#!/usr/bin/env bash
# All checks: style, types, shell scripts, tests.
#
#   bash tests/run.sh                        everything, under 15 minutes on two cores
#   bash tests/run.sh --fast                 without whole recipes and other slow tests: under two minutes
#   bash tests/run.sh tests/evaluation -k ties      other arguments go to pytest
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --fast ]; then
  shift
  set -- -m "not end_to_end and not slow" "$@"
fi
. ./path.sh
# PESQ needs a C compiler and ONNX has its own packages: where they cannot be installed, their tests are skipped.
(cslib_also_needs egs/voicebank/requirements.txt) || true
(cslib_also_needs requirements_onnx.txt) || true
ruff check .
ruff format --check .
mypy
shellcheck --external-sources --source-path=. path.sh utils/*.sh egs/*/*.sh tests/*.sh .ci/run
# One process per core, each with one thread. A file's tests stay in one process: they share what the file prepares.
export OMP_NUM_THREADS=1
python -m pytest -q --durations=10 --numprocesses "$(getconf _NPROCESSORS_ONLN)" --dist loadfile \
  --no-loadscope-reorder "$@"
