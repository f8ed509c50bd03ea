#!/usr/bin/env bash
# Names what ipivrs needs to be built and is not there, with the way to get it. Prints the Python to use.
#
#     tools/prerequisites.sh          Python >= 3.10 with venv, a C linker, cargo >= 1.88
#     tools/prerequisites.sh lint     the same, and rustfmt and clippy
#
# PYTHON names one interpreter to use instead of the first that fits.
set -uo pipefail

readonly rust_wanted=1.88
missing=()

# hint APT DNF OTHER: how to install something, in the words of the package manager that is there.
hint() {
    if command -v apt-get >/dev/null; then echo "sudo apt install $1"
    elif command -v dnf >/dev/null; then echo "sudo dnf install $2"
    else echo "install $3 with your package manager"
    fi
}

# A regular CPython: the free-threaded build and PyPy do not load extension modules of the stable ABI.
python_fits() {
    "$1" -c '
import platform, sys, sysconfig
fits = sys.version_info >= (3, 10) and platform.python_implementation() == "CPython"
sys.exit(not fits or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' 2>/dev/null
}

python_has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

find_python() {
    local candidate without_venv=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10 python}; do
        python_fits "$candidate" || continue
        if python_has_venv "$candidate"; then
            command -v "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        local version
        version=$("$without_venv" -c 'import sys; print("{}.{}".format(*sys.version_info))')
        missing+=("$without_venv has no venv and ensurepip modules: $(hint "python$version-venv" python3-pip "Python's venv and pip")")
    elif [ -n "${PYTHON:-}" ]; then
        missing+=("PYTHON=$PYTHON is no CPython 3.10 or later: give another one, or leave PYTHON out")
    else
        missing+=("no Python 3.10 or later: $(hint "python3 python3-venv" python3.12 "Python 3.12") (or: make PYTHON=/path/to/python3)")
    fi
}

# Is version $1 at least version $2?
at_least() {
    [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

check_rust() {
    local version
    if ! command -v cargo >/dev/null; then
        if [ -x "$HOME/.cargo/bin/cargo" ]; then
            missing+=("cargo is in ~/.cargo/bin, which is not in PATH: . ~/.cargo/env")
        else
            missing+=("no cargo: install Rust $rust_wanted or later with rustup, see https://rustup.rs")
        fi
        return
    fi
    if ! version=$(rustc --version 2>/dev/null) || ! cargo --version >/dev/null 2>&1; then
        missing+=("cargo is there but no toolchain is: rustup default stable")
        return
    fi
    version=$(cut -d' ' -f2 <<<"${version%%-*}")
    if ! at_least "$version" "$rust_wanted"; then
        missing+=("Rust $version is too old, $rust_wanted or later is needed: rustup update (or see https://rustup.rs)")
    elif ! can_link; then
        missing+=("rustc cannot link a program, a C linker is missing: $(hint "gcc libc6-dev" gcc "a C compiler")")
    fi
}

can_link() {
    local directory fine=1
    directory=$(mktemp -d) || return 1
    if rustc --crate-name probe -o "$directory/probe" - <<<'fn main() {}' >/dev/null 2>&1; then fine=0; fi
    rm -rf "$directory"
    return "$fine"
}

check_lint_tools() {
    cargo fmt --version >/dev/null 2>&1 || missing+=("no rustfmt: rustup component add rustfmt")
    cargo clippy --version >/dev/null 2>&1 || missing+=("no clippy: rustup component add clippy")
}

find_python
check_rust
if [ "${1:-}" = lint ]; then check_lint_tools; fi

if [ "${#missing[@]}" -gt 0 ]; then
    {
        echo "ipivrs cannot be built here yet:"
        printf '  - %s\n' "${missing[@]}"
    } >&2
    exit 1
fi
