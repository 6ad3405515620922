# Sourced by the other scripts, from the root of the repository: makes a virtual environment and installs capscale
# in it, once. `setup dev` adds what tests and linters need. Sets $venv. PYTHON chooses the interpreter.

setup() {
  local extras="${1:-}" python="${PYTHON:-python3}" version stamp wanted pip
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || return 1
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "capscale needs Python 3.11 or newer, and $python is $version; set PYTHON to a newer one" >&2
    return 1
  fi
  venv=$PWD/.venv-$version
  stamp=$venv/.capscale-installed
  wanted="$(cksum <setup.py) $PWD"
  # An environment with the extra serves those who do not need it, never the other way round.
  if grep -qsF "$wanted ${extras:-}" "$stamp"; then return 0; fi
  echo "setting up $venv (Python $version)"
  pip=("$venv/bin/python" -m pip)
  if ! "$python" -m venv "$venv" 2>/dev/null; then
    # Debian ships Python without ensurepip: borrow the pip of the interpreter that made the environment.
    "$python" -m venv --without-pip "$venv" || return 1
    pip=("$python" -m pip --python "$venv/bin/python")
  fi
  if ! "${pip[@]}" install --quiet --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"; then
    echo "installing failed: this step needs a package index; see pip's message above" >&2
    return 1
  fi
  echo "$wanted ${extras:-}" >"$stamp"
}
