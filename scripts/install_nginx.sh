#!/bin/sh
# The test of the reverse proxy needs nginx. Installs Debian's where that is possible, else says what to do.
set -eu
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
else
    echo "The test of the reverse proxy needs nginx on PATH; install it with your package manager (apt install nginx-light, brew install nginx)." >&2
    exit 2
fi
