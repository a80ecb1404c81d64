#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job: stock Debian guests whose memory becomes shared, with a live table, and the same memory through KSM beside our engine. Installs what is missing, builds, runs; at most 5 minutes.
#   ./demo.sh            the live table
#   ./demo.sh --json     the final numbers on standard output, all else on standard error
# Where KVM runs guest kernels natively, 4 guests run on this host. Elsewhere 2 guests run in the nested lab (tests/lab): stock kernels need a
# KVM with hardware semantics, which QEMU's TCG emulates.
set -euo pipefail
cd "$(dirname "$0")"

json=
case ${1-} in
'') ;;
--json) json=--json ;;
*)
	echo "usage: ./demo.sh [--json]" >&2
	exit 2
	;;
esac

{
	cmake/install-packages
	cmake --preset release >/dev/null
	cmake --build --preset release --parallel --target sardine sardined lab_helpers | tail -1
} >&2
sardine=$PWD/build/release/tools/sardine

check=$("$sardine" check --json) || true
read -r way why < <(/usr/bin/python3 - "$check" <<'PY'
import json
import os
import sys

host = json.loads(sys.argv[1] or "{}")
kvm = host.get("kvm", {})
if not kvm.get("usable"):
    print("lab", f"this host has no usable KVM ({kvm.get('reason')})")
elif kvm.get("guest_kernel") != "native":
    print("lab", f"KVM here interprets guest kernels ({kvm.get('guest_kernel_mips')} million instructions a second)")
elif not os.access("/sys/kernel/mm/ksm/run", os.W_OK):
    print("lab", "KVM runs guest kernels natively, but KSM cannot be controlled here (not root)")
else:
    print("native", "KVM runs guest kernels natively and KSM can be controlled")
PY
)

if [ "$way" = native ]; then
	echo "demo: 4 guests on this host: $why" >&2
	folder=$(mktemp -d "${TMPDIR:-/tmp}/sardine-demo-guests-XXXXXX")
	trap 'rm -rf "$folder"' EXIT
	tests/lab/run guest-files "$folder" >&2
	SARDINE_BIN=$sardine SARDINED_BIN=${sardine}d sh tests/lab/demo-guests.sh 4 60 "$folder" $json
else
	echo "demo: 2 guests of one vCPU each in the nested lab: $why" >&2
	exec tests/lab/run --build build/release demo $json
fi
