# SPDX-License-Identifier: Apache-2.0
"""scenario_net.py - two stock guests on the bridge of docs/network.md: TCP between them and with the outer machine."""

import os
import re

import image
from errors import check

HERE = os.path.dirname(os.path.abspath(__file__))
HOST, ADDRESSES = "192.168.66.1", {"web1": "192.168.66.11", "web2": "192.168.66.12"}
# virtio 1.2, 5.1.3: CSUM, GUEST_CSUM, MTU, MAC, GUEST_TSO4/6/ECN, HOST_TSO4/6/ECN, MRG_RXBUF, STATUS; 6: event index
FEATURES = (0, 1, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 29)
# A frame of Ethernet is at most 1514 bytes long; large segments lift the mean far above it.
LARGE_SEGMENTS = 2000
# busybox's shell would take its own ip, which knows neither bridges nor taps
REAL_IP = 'ip() { /lab/programs/bin/ip "$@"; }; set -e\n'


def _printed():
    """The shell blocks of docs/network.md: the bridge, the VMs, .."""
    with open(os.path.join(HERE, "../../docs/network.md"), encoding="utf-8") as f:
        return re.findall(r"^```sh\n(.*?)^```", f.read(), re.S | re.M)


def _device(lab, name):
    return next(d for d in lab.vmm.stats(name)["devices"] if d["type"] == "net")


def _check_device(lab, guest):
    bits = guest.must("cat /sys/class/net/eth0/device/features")
    missing = [bit for bit in FEATURES if bits[bit] != "1"]
    check(not missing, f"{guest.name}: features {missing} were not negotiated: {bits}")
    mac = guest.must("cat /sys/class/net/eth0/address")
    check(mac == _device(lab, guest.name)["mac"], f"{guest.name}: its address is {mac}, not {_device(lab, guest.name)['mac']}")
    guest.must(f"ip addr add {ADDRESSES[guest.name]}/24 dev eth0 && ip link set eth0 up")
    guest.must(f"for i in $(seq 20); do ping -c 1 -W 1 {HOST} && exit 0; done; exit 1", timeout=90)


def _fetch(run, url, wanted, what):
    got = run(f"wget -q -O - {url} | sha256sum", timeout=180).split()[0]
    check(got == wanted, f"{what}: checksum of {url} is {got}, not {wanted}")


def _mean(lab, name, way, before):
    after = _device(lab, name)
    packets = after[f"{way}_packets"] - before[f"{way}_packets"]
    return (after[f"{way}_bytes"] - before[f"{way}_bytes"]) / max(1, packets)


def _check_counters(lab, name):
    """Once nothing moves any more, the tap has counted what the device has."""
    device = _device(lab, name)
    counted = lab.outer.must(f"cd /sys/class/net/tap-{name}/statistics; cat rx_packets rx_bytes tx_dropped").split()
    check([int(n) for n in counted[:2]] == [device["tx_packets"], device["tx_bytes"]],
          f"{name}: the tap took {counted} packets and bytes, the device gave {device}")
    bad = {key: value for key, value in device.items() if ("dropped" in key or "errors" in key) and value}
    check(not bad and not device["virtio"]["hostile"], f"{name}: {device}")


def net2(lab):
    """Two guests on a bridge, made as docs/network.md prints it: TCP both ways, large segments, checksums, counters."""
    bridge = _printed()[0]
    lab.outer.must("mkdir -p /etc && echo root:x:0:0::/root:/bin/sh >/etc/passwd")
    lab.outer.must(REAL_IP + bridge)
    guests = lab.vmm.boot_all(list(ADDRESSES), lab.inner, cpus=1, extra="--net tap=tap-{name}")
    for guest in guests:
        _check_device(lab, guest)
    web1, web2 = guests
    web1.must("httpd -p 80 -h /data")
    kernel = f"/lab/guests/{lab.inner}/vmlinuz"
    lab.outer.must("httpd -p 8080 -h /lab/guests")
    before = {guest.name: _device(lab, guest.name) for guest in guests}
    blob = f"http://{ADDRESSES['web1']}/blob"
    _fetch(web2.must, blob, image.data_sha256(), "guest to guest")
    means = (_mean(lab, "web1", "tx", before["web1"]), _mean(lab, "web2", "rx", before["web2"]))
    lab.report.note(f"{lab.title('net2')}: frames of guest to guest have {means[0]:.0f} bytes when sent, {means[1]:.0f} when received")
    check(min(means) > LARGE_SEGMENTS, f"no large segments between the guests: frames have {means} bytes")
    _fetch(lab.outer.must, blob, image.data_sha256(), "guest to host")
    wanted = lab.outer.must(f"sha256sum {kernel}").split()[0]
    before = _device(lab, "web1")
    _fetch(web1.must, f"http://{HOST}:8080/{lab.inner}/vmlinuz", wanted, "host to guest")
    mean = _mean(lab, "web1", "rx", before)
    check(mean > LARGE_SEGMENTS, f"no large segments from the host: frames have {mean:.0f} bytes")
    for guest in guests:
        guest.must("ip link set eth0 down")
        _check_counters(lab, guest.name)
        lab.vmm.stop(guest)
    lab.outer.must(REAL_IP + "ip link del tap-web1; ip link del tap-web2; ip link del br0; kill $(pidof httpd)")
