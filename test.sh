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
mkdir -p "$results/lab-taken"
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
	nice cmake --build --preset "$preset" --parallel "$jobs" ${1+--target "$@"} >"$results/build-$preset.log" || {
		tail -50 "$results/build-$preset.log"
		return 1
	}
}

# run NAME PRESET LABEL-REGEX JOBS [CTEST-OPTION...]: the summary counts what failed, so a failure here does not end the run.
run() {
	local name=$1 preset=$2 label=$3 parallel=$4
	shift 4
	echo "== test: $name ($preset: $label)"
	ctest --test-dir "build/$preset" --label-regex "$label" --parallel "$parallel" --output-on-failure --no-tests=error \
		--output-junit "$PWD/$results/$name.xml" "$@" || true
}

lab_tests() {
	ctest --test-dir build/release --label-regex '^lab$' --show-only=json-v1 |
		/usr/bin/python3 -c 'import json, sys; print(*(test["name"] for test in json.load(sys.stdin)["tests"]))'
}

# labs NAME...: those tests of the lab that nobody has taken yet, one after the other.
labs() {
	local name
	for name in "$@"; do
		[ -n "$name" ] && mkdir "$results/lab-taken/$name" 2>/dev/null || continue
		run "$name" release '^lab$' 1 --tests-regex "^$name\$"
	done
}

build release

# Machines of the lab have one CPU each, and take the longest: one CPU of ours begins with them, the other builds and tests everything else, then
# helps with the lab. The demo controls KSM where it runs on this host: not beside tests that do so, too.
read -ra lab_names < <(lab_tests)
export -f run labs
export results
setsid bash -c 'labs "$@"' labs "${lab_names[@]/lab-demo/}" >"$results/lab.log" 2>&1 &
lab=$!
trap 'kill -- -"$lab" 2>/dev/null || true' EXIT

[ -z "${SARDINE_FULL-}" ] || build clang # what it warns of, preset tsan warns of: also clang, also everything
build asan-ubsan
build tsan
build fuzz fuzzers
run unit release '^(unit|fault)$' "$jobs"
run unit-sanitized asan-ubsan '^(unit|fault)$' "$jobs"
run stress tsan '^stress$' 1
run stress-native release '^stress$' 1
run fuzz fuzz '^fuzz$' "$jobs"
SARDINE_LAB_LOCK=/tmp/sardine-lab-second.lock labs lab-demo "${lab_names[@]}"
wait "$lab" || true
cat "$results/lab.log"
# The rest wants the machine for itself.
run install release '^install$' 1
run vm release '^vm$' 1

trap - EXIT
exec /usr/bin/python3 tests/summary.py "$results"
