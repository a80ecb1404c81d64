#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Boots stock guests that share their memory through sardined, shows `sardine stats` live, then puts the same memory through KSM and through
# our engine side by side; the same on a host and in the lab.
#   demo-guests.sh GUESTS SECONDS FOLDER [--json]
# FOLDER holds vmlinuz, initrd and root.img (tests/lab/run guest-files makes one). With --json stdout has the final numbers only.
# `bench` undoes its changes of KSM's settings; guests and daemon end with this script, however it ends.
set -eu
guests=$1 seconds=$2 folder=$3 json=${4-}
sardine=${SARDINE_BIN:-sardine}
sardined=${SARDINED_BIN:-sardined}
ksm=/sys/kernel/mm/ksm
work=$(mktemp -d "${TMPDIR:-/tmp}/sardine-demo-XXXXXX")
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
	[ -z "${daemon-}" ] || kill "$daemon" 2>/dev/null || true
	rm -rf "$work"
	exit "$status"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[ -w "$ksm/run" ] || {
	say "demo: $ksm/run: not writable; KSM needs root"
	exit 77
}

if ! "$sardined" --status >/dev/null 2>&1; then
	"$sardined" --log-level warn >&2 &
	daemon=$!
fi
say "demo: starting $guests guests"
i=1
while [ "$i" -le "$guests" ]; do
	cp "$folder/root.img" "$work/$i.img"
	"$sardine" run --name "demo-$$-$i" --kernel "$folder/vmlinuz" --initrd "$folder/initrd" --mem 256M --cpus 1 \
		--cmdline 'console=ttyS0 root=/dev/vda rw loglevel=4' --disk "path=$work/$i.img" \
		--console "file:$work/$i.log" --engine store --detach >&2
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

share() {
	"$sardine" merge --all --timeout 10 >"$work/merge" 2>&1 || {
		cat "$work/merge" >&2
		exit 1
	}
}

if [ "$json" = --json ]; then
	sleep "$seconds"
	share
	"$sardine" stats --json >"$work/stats.json"
else
	"$sardine" stats --watch 2 &
	watch=$!
	sleep "$seconds"
	kill "$watch" 2>/dev/null || true
	wait "$watch" 2>/dev/null || true
	watch=
	share
	echo
	say "demo: the guests' memory, shared by sardined"
	"$sardine" stats
fi

# The same bytes through KSM and through our engine: what the guests hold now, in VMs without vCPUs.
i=1
images=
while [ "$i" -le "$guests" ]; do
	"$sardine" dump "demo-$$-$i" "$work/$i.raw" --format raw >/dev/null
	images=$images${images:+,}$work/$i.raw
	i=$((i + 1))
done
i=1
while [ "$i" -le "$guests" ]; do
	"$sardine" kill "demo-$$-$i" >/dev/null 2>&1 || true
	i=$((i + 1))
done
say "demo: the same memory through ksmd at its fastest, and through our store, each by itself; pages of zeros are apart"
if [ "$json" = --json ]; then
	"$sardine" bench merge --vms "$guests" --content "images:$images" --engines ksmd-fastest,store --limit 60 --json >"$work/bench.json"
	printf '{"stats": %s, "bench": %s}\n' "$(cat "$work/stats.json")" "$(cat "$work/bench.json")"
else
	"$sardine" bench merge --vms "$guests" --content "images:$images" --engines ksmd-fastest,store --limit 60
fi
