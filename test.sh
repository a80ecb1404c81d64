#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, and runs all tests: unit, fault, fuzz, stress, vm (native /dev/kvm), install (the .deb in a clean Debian root), lab (stock Linux guests).
#   ./test.sh           at most 20 minutes on two cores
#   ./test.sh --full    the long forms, at most 80 minutes
# A skipped test is a failure unless SARDINE_ALLOW_SKIP names its label, e.g. SARDINE_ALLOW_SKIP=vm,lab.
set -euo pipefail
cd "$(dirname "$0")"

case ${1-} in
'') ;;
--full) export SARDINE_FULL=1 ;;
*)
	echo "usage: ./test.sh [--full]" >&2
	exit 2
	;;
esac

cmake/install-packages
results=build/test-results
rm -rf "$results"
mkdir -p "$results"
jobs=$(nproc)

# build PRESET [TARGET...]
build() {
	local preset=$1
	shift
	echo "== build: $preset"
	cmake --preset "$preset" >"$results/configure-$preset.log" || {
		cat "$results/configure-$preset.log"
		return 1
	}
	cmake --build --preset "$preset" --parallel "$jobs" ${1+--target "$@"} >"$results/build-$preset.log" || {
		tail -50 "$results/build-$preset.log"
		return 1
	}
}

# run NAME PRESET LABEL-REGEX JOBS: the summary counts what failed, so a failure here does not end the run.
run() {
	echo "== test: $1 ($2: $3)"
	ctest --test-dir "build/$2" --label-regex "$3" --parallel "$4" --output-on-failure --no-tests=error \
		--output-junit "$PWD/$results/$1.xml" || true
}

build release
build clang
build asan-ubsan
build tsan
build fuzz fuzzers

run unit release '^(unit|fault)$' "$jobs"
run unit-sanitized asan-ubsan '^(unit|fault)$' "$jobs"
run stress tsan '^stress$' 1
run stress-native release '^stress$' 1
run fuzz fuzz '^fuzz$' "$jobs"
run vm release '^vm$' 1
run install release '^install$' 1
run lab release '^lab$' 1

exec /usr/bin/python3 tests/summary.py "$results"
