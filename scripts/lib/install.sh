# Shared by the scripts that need programs of others, which source it in the root of the repository. Each function fails if it cannot.

# debian PROGRAM PACKAGE …: has a program of Debian's packages, which only root can install into the system.
debian() {
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
    echo "installing ${*:2} …" >&2
    # Prevent both kinds of init from starting the service of a package: the tests start their own.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 SYSTEMD_OFFLINE=1
    local install=(apt-get install -qq --no-install-recommends "${@:2}")
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" >/dev/null; }
}

# environment FOLDER PACKAGE==VERSION …: has these packages from PyPI in an environment of their own in .parts/FOLDER.
environment() {
    local folder=.parts/$1 wanted="${*:2}"
    [ "$(cat "$folder/.installed" 2>/dev/null)" = "$wanted" ] && return
    echo "installing $1 …" >&2
    .venv/bin/python -m venv --clear --without-pip "$folder" &&
        .venv/bin/uv pip install --quiet --python "$folder/bin/python" "${@:2}" &&
        echo "$wanted" >"$folder/.installed"
}
