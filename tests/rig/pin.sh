#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes each requirements.txt anew from the requirements.in beside it: every wheel of every platform with its hash,
# for Python 3.11 (Debian 12) and later (Debian 13).  To be run by hand after a requirements.in has changed.
set -euo pipefail

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet uv==0.13.9

for directory in . lint rig/envoy rig/go; do
    (cd "$directory" &&
        UV_CUSTOM_COMPILE_COMMAND=tests/rig/pin.sh "$work/venv/bin/uv" pip compile --quiet --universal \
            --generate-hashes --python-version 3.11 --no-emit-index-url --no-emit-find-links \
            -o requirements.txt requirements.in)
done
