#!/usr/bin/env bash
# All checks: style, shell scripts, tests. Arguments go to pytest:
#
#   bash tests/run.sh                           everything, under 15 minutes on two cores
#   bash tests/run.sh -m "not end_to_end"       without the runs of whole recipes
#   bash tests/run.sh tests/scoring -k ties
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. ./path.sh
# Without a C compiler there is no PESQ: what needs it is skipped then, as is what needs ONNX where that cannot be had.
(cslib_also_needs egs/voicebank/requirements.txt) || true
(cslib_also_needs requirements_onnx.txt) || true
ruff check .
shellcheck --external-sources --source-path=. path.sh utils/*.sh egs/*/*.sh tests/*.sh .ci/run
# A process for each core, of one thread, and whole files: what a file makes for several of its tests is made once.
export OMP_NUM_THREADS=1
python -m pytest -q --durations=10 --numprocesses "$(getconf _NPROCESSORS_ONLN)" --dist loadfile \
  --no-loadscope-reorder "$@"
