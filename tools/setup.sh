#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the build, the tests and the checks need on Debian 12, Ubuntu 24.04 and newer.
# Says and does nothing when all of it is there.
set -euo pipefail

packages=(
  g++ cmake ninja-build                               # build
  libhwy-dev libdnnl-dev                              # elapse/backends/cpu
  ocl-icd-opencl-dev                                  # asked for by the CMake files of libdnnl-dev
  rapidjson-dev libcli11-dev libfmt-dev
  libpcre2-dev libutf8proc-dev                        # elapse/text
  libgtest-dev python3                                # tests
  clang libclang-rt-dev                               # fuzzing: libFuzzer and its sanitizers
  clang-format-14                                     # one version everywhere: layouts differ
)

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
    sed -n 's/^installed //p') || true
  printf '%s\n' "${packages[@]}" | grep -vxF -e "$installed" || true
}

as_root() {
  if [ "$(id -u)" = 0 ]; then env "$@"; else sudo env "$@"; fi
}

apt_get() {
  as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# Ubuntu keeps most of these packages in `universe`, which a minimal root may not have switched on.
offer_universe() {
  grep -qx 'ID=ubuntu' /etc/os-release || return 0
  local policy main_archives
  policy=$(apt-cache policy)
  if grep -q '/universe ' <<<"$policy"; then return 0; fi
  echo "setup: adding Ubuntu's universe to apt's sources (/etc/apt/sources.list.d/universe.list)"
  main_archives=$(awk '$3 ~ "/main$" { sub("/main$", "", $3); print "deb", $2, $3, "universe" }' \
    <<<"$policy" | sort -u)
  as_root tee /etc/apt/sources.list.d/universe.list <<<"$main_archives" >/dev/null
  apt_get update >/dev/null
}

# Of apt's lines, the size of the download and the packages that were asked for.
progress() {
  local names
  names=$(printf '\\|%s' "$@")
  sed -un -e 's/^Need to get/  &/p' -e "s/^Setting up \\(${names:2}\\)[: ].*/  \\1/p"
}

mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: no apt-get here, so please see to it that what these packages of Debian 12 hold is" \
    "installed: ${missing[*]}" >&2
  exit 0
fi
if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
  echo "setup: neither root nor sudo to install with; please have installed: ${missing[*]}" >&2
  exit 1
fi

echo "setup: installing ${missing[*]}"
apt_get update >/dev/null
offer_universe
apt_get install --no-install-recommends "${missing[@]}" | progress "${missing[@]}"
