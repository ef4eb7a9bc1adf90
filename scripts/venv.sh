#!/usr/bin/env bash
# Makes build/venv-X.Y with the frameworks of server/e2e/requirements.txt for each CPython from
# 3.9 that this machine has, one for each minor version. An environment is made again only when
# the requirements or its interpreter have changed. An interpreter that cannot is skipped with a
# line that says why; it is an error when none is left.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly requirements=server/e2e/requirements.txt
readonly parallel_max=2

# describe PYTHON prints "X.Y VERSION PATH", with X.Yt for a free-threaded build, or nothing
# when it is no CPython from 3.9. A pyenv shim answers with the interpreter behind it.
describe() {
    "$1" -c '
import sys
if sys.version_info >= (3, 9) and sys.implementation.name == "cpython":
    name = "%d.%d" % sys.version_info[:2] + ("t" if "t" in sys.abiflags else "")
    print(name, "%d.%d.%d" % sys.version_info[:3], sys.executable)
' 2>/dev/null </dev/null || true
}

# candidates lists interpreters, the first of a minor version wins: the distribution's own comes
# first, since it is built unlike all others.
candidates() {
    local minor
    echo /usr/bin/python3
    command -v python3 || true
    for minor in 9 10 11 12 13 14; do
        command -v "python3.$minor" || true
    done
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python
}

# make_one NAME PYTHON VERSION makes one environment; it does not fail, it explains.
make_one() {
    local name=$1 python=$2 version=$3
    local venv=build/venv-$name log=build/venv-$name.log stamp
    stamp="$version $python $(sha256sum "$requirements" | cut --delimiter=' ' --fields=1)"
    if [[ -x $venv/bin/python && $(cat "$venv/.stamp" 2>/dev/null) == "$stamp" ]]; then
        return
    fi
    echo "venv.sh: making $venv with $python ($version)"
    rm --recursive --force "$venv"
    if "$python" -m venv "$venv" >"$log" 2>&1 &&
        "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
            --requirement "$requirements" >>"$log" 2>&1; then
        echo "$stamp" >"$venv/.stamp"
        return
    fi
    rm --recursive --force "$venv"
    echo "venv.sh: skipping Python $version ($python): $(reason "$log"); see $log" >&2
}

# reason LOG picks the line of a log that says most.
reason() {
    grep --ignore-case --max-count=1 'error' "$1" || tail --lines=1 "$1"
}

# remove_others NAMES removes environments of interpreters that are gone: tests would use them.
remove_others() {
    local venv
    for venv in build/venv-*/; do
        venv=${venv%/}
        if [[ -d $venv && " $1 " != *" ${venv#build/venv-} "* ]]; then
            echo "venv.sh: removing $venv: its interpreter is gone"
            rm --recursive --force "$venv"
        fi
    done
}

main() {
    local candidate name python version names="" found=()
    mkdir --parents build
    while read -r candidate; do
        read -r name version python <<<"$(describe "$candidate")"
        if [[ -z $python || " $names " == *" $name "* ]]; then
            continue
        fi
        names+=" $name"
        found+=("$name" "$python" "$version")
    done < <(candidates)
    remove_others "$names"
    if ((${#found[@]} > 0)); then
        printf '%s\0' "${found[@]}" |
            xargs --null --max-args=3 --max-procs="$parallel_max" "$0" --make-one
    fi
    if ! compgen -G 'build/venv-*/.stamp' >/dev/null; then
        echo "venv.sh: no virtual environment could be made;" \
            "install Python 3.9 or newer with venv and pip" \
            "(Debian, Ubuntu: apt install python3-venv)" >&2
        exit 1
    fi
}

if [[ ${1:-} == --make-one ]]; then
    make_one "$2" "$3" "$4"
else
    main
fi
