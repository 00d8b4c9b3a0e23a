#!/bin/sh
# The pages' scripts are checked with Node.js 20.19 or newer. Installs Debian's where that is possible, else says what to do.
set -eu
usable() {
    command -v npm >/dev/null && node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'
}
usable && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
fi
usable || {
    echo "The checks of the pages' scripts need Node.js 20.19 or newer, with npm, on PATH; install it from https://nodejs.org or with your package manager (apt install nodejs npm, brew install node)." >&2
    exit 2
}
