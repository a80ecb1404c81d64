#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Boots stock guests, lets ksmd merge their memory, and shows `sardine stats` live; the same on a host and in the lab.
#   demo-guests.sh GUESTS SECONDS FOLDER [--json]
# FOLDER holds vmlinuz, initrd and root.img (tests/lab/run guest-files makes one). With --json stdout has the final numbers only.
# Changes of KSM's settings are undone, and the guests ended, however this script ends.
set -eu
guests=$1 seconds=$2 folder=$3 json=${4-}
sardine=${SARDINE_BIN:-sardine}
ksm=/sys/kernel/mm/ksm
work=$(mktemp -d "${TMPDIR:-/tmp}/sardine-demo-XXXXXX")
settings="advisor_mode smart_scan use_zero_pages pages_to_scan sleep_millisecs run"
boot_seconds=${DEMO_BOOT_SECONDS:-150}

say() {
	echo "$@" >&2
}

restore() {
	status=$?
	trap - EXIT HUP INT TERM
	[ -z "${watch-}" ] || kill "$watch" 2>/dev/null || true
	i=1
	while [ "$i" -le "$guests" ]; do
		"$sardine" kill "demo-$$-$i" >/dev/null 2>&1 || true
		i=$((i + 1))
	done
	# advisor_mode first: while an advisor is on, pages_to_scan cannot be written
	for name in $settings; do
		if [ -f "$work/ksm-$name" ]; then
			cat "$work/ksm-$name" >"$ksm/$name" 2>/dev/null || true
		fi
	done
	rm -rf "$work"
	exit "$status"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ksm NAME VALUE: sets it, and keeps what it was for restore; what this kernel does not have is left out
ksm() {
	[ -e "$ksm/$1" ] || return 0
	# "[none] scan-time" reads as a list with the current one in brackets
	sed 's/.*\[\(.*\)\].*/\1/' "$ksm/$1" >"$work/ksm-$1"
	echo "$2" >"$ksm/$1"
}

[ -w "$ksm/run" ] || {
	say "demo: $ksm/run: not writable; KSM needs root"
	exit 77
}

say "demo: starting $guests guests"
i=1
while [ "$i" -le "$guests" ]; do
	cp "$folder/root.img" "$work/$i.img"
	"$sardine" run --name "demo-$$-$i" --kernel "$folder/vmlinuz" --initrd "$folder/initrd" --mem 256M --cpus 1 \
		--cmdline 'console=ttyS0 root=/dev/vda rw loglevel=4' --disk "path=$work/$i.img" \
		--console "file:$work/$i.log" --mergeable on --detach >&2
	i=$((i + 1))
done

i=1
waited=0
while [ "$i" -le "$guests" ]; do
	if grep -q 'agent ready' "$work/$i.log" 2>/dev/null; then
		i=$((i + 1))
	elif [ "$waited" -ge "$boot_seconds" ]; then
		say "demo: guest $i did not boot in $boot_seconds s; its console ends with:"
		tail -n 20 "$work/$i.log" >&2 || true
		exit 1
	else
		sleep 1
		waited=$((waited + 1))
	fi
done
say "demo: all guests are up after $waited s"

# start_ksmd: pages of zeros go to the kernel's own page of zeros, so that they are counted apart
start_ksmd() {
	ksm advisor_mode none
	ksm smart_scan 0
	ksm use_zero_pages 1
	ksm pages_to_scan 2000
	ksm sleep_millisecs 20
	ksm run 1
}

if [ "$json" = --json ]; then
	start_ksmd
	sleep "$seconds"
	"$sardine" stats --json
else
	"$sardine" stats --watch 2 &
	watch=$!
	sleep 5
	say "demo: ksmd starts"
	start_ksmd
	sleep "$seconds"
	kill "$watch" 2>/dev/null || true
	wait "$watch" 2>/dev/null || true
	watch=
	echo
	say "demo: the end result"
	"$sardine" stats
fi
