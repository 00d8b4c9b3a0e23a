#!/bin/sh
# The browser tests need Chromium or Chrome. Installs Debian's where that is possible, else says what to do.
set -eu
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq chromium >/dev/null
else
    echo "The browser tests need Chromium or Chrome on PATH; install it with your package manager (apt install chromium, brew install --cask chromium)." >&2
    exit 2
fi
