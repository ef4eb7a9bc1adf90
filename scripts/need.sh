#!/usr/bin/env bash
# Says what is missing to build or test gophersnake: one line each, with the way to get it.
# Usage: need.sh go|cc|python|venv ...
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0

# lacks NAME ADVICE
lacks() {
    echo "missing: $1; $2" >&2
    missing=1
}

# A Go of 1.21 or newer fetches the one that go.mod asks for, so the answer is taken here, in
# the module.
need_go() {
    local version advice="install Go 1.26 or newer from https://go.dev/dl"
    advice+=" (Debian, Ubuntu: apt install golang-go, where it is new enough)"
    if ! command -v go >/dev/null; then
        lacks "go, the compiler" "$advice"
        return
    fi
    version=$(go env GOVERSION 2>/dev/null || go version | cut --delimiter=' ' --fields=3)
    version=${version#go}
    local major=${version%%.*} minor
    minor=${version#*.}
    minor=${minor%%[!0-9]*}
    if ! [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] || ((major * 1000 + minor < 1026)); then
        lacks "go 1.26 or newer (this is ${version:-unknown})" "$advice"
    fi
}

# A compiler without the C library's headers builds nothing: Debian packs them apart.
need_cc() {
    local advice="install a C compiler (Debian, Ubuntu: apt install build-essential)"
    if ! command -v "${CC:-cc}" >/dev/null; then
        lacks "${CC:-cc}, the C compiler" "$advice"
    elif ! printf '#include <stdint.h>\n#include <stdio.h>\n' |
        "${CC:-cc}" -E -x c - >/dev/null 2>&1; then
        lacks "the headers of the C library" "$advice"
    fi
}

need_python() {
    local advice="install Python 3.9 or newer (Debian, Ubuntu: apt install python3)"
    if ! command -v python3 >/dev/null; then
        lacks "python3" "$advice"
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        lacks "python3, version 3.9 or newer" "$advice"
    fi
}

# Debian's python3 has the module venv, but without ensurepip it makes no environment with pip.
need_venv() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            return
        fi
    done
    lacks "python3 -m venv with ensurepip" \
        "install the package of it (Debian, Ubuntu: apt install python3-venv)"
}

for what in "$@"; do
    case $what in
        go) need_go ;;
        cc) need_cc ;;
        python) need_python ;;
        venv) need_venv ;;
        *)
            echo "need.sh: unknown: $what" >&2
            exit 2
            ;;
    esac
done
exit "$missing"
