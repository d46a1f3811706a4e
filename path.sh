# shellcheck shell=bash
# Sourced by every run.sh: finds or creates the Python environment and puts the project's root on PYTHONPATH.
#
#   . ./path.sh        (in bash; afterwards you can copy the commands that a recipe prints, and run them)
#
# An active virtual or conda environment is used unchanged. Without one, .venv is created with $CSLIB_PYTHON (default
# python3; 3.10 to 3.13) and requirements.txt is installed into it: about 2 minutes and 5 GB, once.
# .venv/stamp records what was installed: a changed requirements.txt is installed again, and an interrupted installation
# (its stamp is "installing") is deleted and repeated.

cslib_root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

cslib_fail() {
  echo "error: $*" >&2
  exit 1
}

# PYTHON ADVICE: fails, with the advice, unless torch 2.11 supports that Python.
cslib_check_python() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    cslib_fail "'$1' does not run as Python, and Python 3.10 to 3.13 is required: $2"
  case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) cslib_fail "'$1' is Python $version; 3.10 to 3.13 is required: $2" ;;
  esac
}

# The folder of the environment that the user has activated; nothing without one, and for our own .venv.
cslib_active_environment() {
  local folder
  for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [ -n "$folder" ] && [ -x "$folder/bin/python" ] && ! [ "$folder" -ef "$cslib_root/.venv" ]; then
      echo "$folder"
      return
    fi
  done
}

# Nothing is ever installed into an environment of the user's; a sentence says what it lacks.
cslib_check_environment() (
  cslib_check_python "$1/bin/python" "deactivate that environment to use .venv"
  missing=$("$1/bin/python" "$cslib_root/utils/missing_requirements.py" "$cslib_root/requirements.txt") || exit 1
  [ -z "$missing" ] ||
    cslib_fail "the active environment $1 lacks $missing: run '$1/bin/python -m pip install -r" \
      "$cslib_root/requirements.txt', or deactivate it to use .venv"
)

cslib_installed() {
  [ "$(cat "$cslib_root/.venv/stamp" 2>/dev/null)" = "$(cksum <"$cslib_root/requirements.txt")" ] &&
    "$cslib_root/.venv/bin/python" -c '' 2>/dev/null
}

# Creates .venv or updates it; one process at a time, the others wait.
cslib_install() (
  if command -v flock >/dev/null; then
    flock -n 9 || { echo "another process is installing .venv: waiting until it ends" && flock 9; }
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
    echo "creating $venv with $("$python" --version) and installing requirements.txt: about 2 minutes, 5 GB on disk"
    rm -rf "$venv"
    { mkdir "$venv" && echo installing >"$venv/stamp" && "$python" -m venv "$venv"; } ||
      cslib_fail "$venv could not be created: see the message above"
  else
    cslib_check_python "$venv/bin/python" "delete $venv, and it is created again"
    echo "requirements.txt has changed since $venv was created: updating it"
    echo installing >"$venv/stamp"
  fi
  "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -r "$cslib_root/requirements.txt" ||
    cslib_fail "pip could not install requirements.txt (see its message above): check the network and the free" \
      "disk, then run the same command again"
  cksum <"$cslib_root/requirements.txt" >"$venv/stamp.new" && mv "$venv/stamp.new" "$venv/stamp" || exit 1
  echo "installed in $((SECONDS - start)) s"
) 9>"$cslib_root/.venv.lock"

# FILE: installs what a recipe needs besides, a requirements file, perhaps with packages that have to be compiled. Call
# it after sourcing this file, in the project's root.
cslib_also_needs() {
  local missing
  missing=$(python "$cslib_root/utils/missing_requirements.py" "$1") || exit 1
  [ -n "$missing" ] || return 0
  [ "$cslib_environment" -ef "$cslib_root/.venv" ] ||
    cslib_fail "the active environment $cslib_environment lacks $missing:" \
      "run '$cslib_environment/bin/python -m pip install -r $1', or deactivate it to use .venv"
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
