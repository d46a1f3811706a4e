# shellcheck shell=bash
# Sourced by every run.sh: finds or makes the Python environment and puts the project's root on PYTHONPATH.
#
#   . ./path.sh        (in bash; afterwards the commands that a recipe prints can be copied and run by hand)
#
# An active virtual or conda environment is used as it is. Without one, .venv is made with $CSLIB_PYTHON
# (default python3; 3.10 to 3.13) and requirements.txt is installed into it: about 2 minutes and 5 GB, once.
# .venv/stamp says what was installed: a changed requirements.txt is installed again, and an installation that
# was interrupted (the stamp still says "installing") is thrown away and made anew.

cslib_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

cslib_fail() {
  echo "error: $*" >&2
  exit 1
}

# PYTHON ADVICE: ends with a sentence, the advice last, unless that is a Python which torch 2.11 supports.
cslib_check_python() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    cslib_fail "'$1' is no Python that runs, and Python 3.10 to 3.13 is needed: $2"
  case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) cslib_fail "'$1' is Python $version, and 3.10 to 3.13 is needed: $2" ;;
  esac
}

# The folder of the environment that the user has activated; nothing when there is none or it is our own .venv.
cslib_active_environment() {
  local folder
  for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [ -n "$folder" ] && [ -x "$folder/bin/python" ] && ! [ "$folder" -ef "$cslib_root/.venv" ]; then
      echo "$folder"
      return
    fi
  done
}

# An environment of the user's is never installed into: he is told what it lacks.
cslib_check_environment() (
  cslib_check_python "$1/bin/python" "deactivate that environment and .venv is made instead"
  missing=$("$1/bin/python" "$cslib_root/utils/missing_requirements.py" "$cslib_root/requirements.txt") || exit 1
  [ -z "$missing" ] ||
    cslib_fail "the active environment $1 lacks $missing: run '$1/bin/python -m pip install -r" \
      "$cslib_root/requirements.txt', or deactivate it and .venv is made instead"
)

cslib_installed() {
  [ "$(cat "$cslib_root/.venv/stamp" 2>/dev/null)" = "$(cksum <"$cslib_root/requirements.txt")" ] &&
    "$cslib_root/.venv/bin/python" -c '' 2>/dev/null
}

# Makes .venv or brings it up to date; one process at a time, the others wait for it.
cslib_install() (
  if command -v flock >/dev/null; then
    flock -n 9 || { echo "another run is installing .venv: waiting for it" && flock 9; }
  fi
  ! cslib_installed || exit 0
  venv=$cslib_root/.venv
  start=$SECONDS
  if [ "$(cat "$venv/stamp" 2>/dev/null)" = installing ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=${CSLIB_PYTHON:-python3}
    cslib_check_python "$python" "install one or name one, e.g. CSLIB_PYTHON=python3.12"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      cslib_fail "'$python' cannot make virtual environments: install its venv package (Debian and Ubuntu:" \
        "apt install python3-venv), or name another Python in CSLIB_PYTHON"
    echo "making $venv with $("$python" --version) and installing requirements.txt: about 2 minutes, 5 GB on disk"
    rm -rf "$venv"
    { mkdir "$venv" && echo installing >"$venv/stamp" && "$python" -m venv "$venv"; } ||
      cslib_fail "$venv could not be made: see the message above"
  else
    cslib_check_python "$venv/bin/python" "delete $venv and it is made anew"
    echo "requirements.txt is not the one that $venv was made from: bringing it up to date"
    echo installing >"$venv/stamp"
  fi
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -r "$cslib_root/requirements.txt" ||
    cslib_fail "pip could not install requirements.txt (its message stands above): check the network and the free" \
      "disk, then run the same command again"
  cksum <"$cslib_root/requirements.txt" >"$venv/stamp.new" && mv "$venv/stamp.new" "$venv/stamp" || exit 1
  echo "installed in $((SECONDS - start)) s"
) 9>"$cslib_root/.venv.lock"

# FILE: a requirements file of what a recipe needs besides, perhaps packages that have to be compiled. To be called
# after this file was sourced, from the project's root.
cslib_also_needs() {
  local missing
  missing=$(python "$cslib_root/utils/missing_requirements.py" "$1") || exit 1
  [ -n "$missing" ] || return 0
  [ "$cslib_environment" -ef "$cslib_root/.venv" ] ||
    cslib_fail "the active environment $cslib_environment lacks $missing:" \
      "run '$cslib_environment/bin/python -m pip install -r $1', or deactivate it and .venv is made instead"
  echo "installing $missing"
  python -m pip install --quiet --no-input --disable-pip-version-check -r "$1" >"$cslib_root/.venv/pip.log" 2>&1 ||
    cslib_fail "$missing could not be installed, see $cslib_root/.venv/pip.log: it may have to be compiled, which needs" \
      "a C compiler and Python's headers (Debian and Ubuntu: apt install gcc python3-dev); then run this again"
}

cslib_environment=$(cslib_active_environment)
if [ -n "$cslib_environment" ]; then
  cslib_check_environment "$cslib_environment" || return 1
else
  cslib_environment=$cslib_root/.venv
  cslib_installed || cslib_install || return 1
  export VIRTUAL_ENV=$cslib_environment
fi
case $PATH: in
  "$cslib_environment/bin":*) ;;
  *) PATH=$cslib_environment/bin:$PATH ;;
esac
case :${PYTHONPATH:-}: in
  *:"$cslib_root":*) ;;
  *) export PYTHONPATH=$cslib_root${PYTHONPATH:+:$PYTHONPATH} ;;
esac
export PYTHONUNBUFFERED=1   # a log file grows while the recipe runs
# glibc hands large blocks back to the kernel and asks for them anew in every step of a training: clearing their pages
# takes a fifth of the time on a CPU. These let it keep them.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}
