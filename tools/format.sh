#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lays out the tracked C++ sources; with --check only reports those laid out otherwise.
# Exit status 77: cannot tell here.
set -euo pipefail
cd "$(dirname "$0")/.."

cannot_tell() {
  echo "format: $*"
  exit 77
}

command -v clang-format-14 >/dev/null || cannot_tell "clang-format-14 is not installed"
tracked=$(git ls-files '*.cc' '*.h' '*.cu' '*.cuh') || cannot_tell "not a git checkout"
mapfile -t files <<<"$tracked"

if [ "${1:-}" = --check ]; then
  clang-format-14 --dry-run -Werror "${files[@]}"
else
  clang-format-14 -i "${files[@]}"
fi
