# SPDX-License-Identifier: Apache-2.0
"""A network namespace of the test's own, taps in it, and frames by hand. It ends with the process, and all in it."""
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess

CLONE_NEWNET = 0x40000000
ETHERTYPE = 0x88B5  # for local experiments (IEEE 802)
ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR = 263, 15
TUNSETIFF, SIOCGIFHWADDR = 0x400454CA, 0x8927
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
NEEDS_CSUM, GSO_TCPV4 = 1, 1

_entered = False


def no_taps_reason():
    """Why taps cannot be made here, or None; the process is in a namespace of its own then."""
    global _entered
    if _entered:
        return None
    if os.geteuid():
        return "taps are made by root only"
    if not shutil.which("ip"):
        return "no ip command (package iproute2)"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        return f"no network namespace: {os.strerror(ctypes.get_errno())}"
    _entered = True
    return None


def ip(*args):
    subprocess.run(["ip", *map(str, args)], check=True)


def make_tap(name, up=True, mtu=None):
    ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
    # No frames of the kernel's own on it.
    with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w", encoding="ascii") as f:
        f.write("1")
    if mtu:
        ip("link", "set", name, "mtu", mtu)
    if up:
        ip("link", "set", name, "up")
    return name


def drop(name):
    """Delete a device that may be gone already."""
    subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)


def attach_tap(name):
    """A new tap that is gone with its descriptor, which is returned."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    return fd


def address(name):
    """Its Ethernet address, six bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))[18:24]


class Wire:
    """Frames on a network device: what the guest sends arrives here, what is sent here arrives at the guest."""

    def __init__(self, name, headers=False, seconds=10):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.headers = headers
        if headers:
            self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.bind((name, ETH_P_ALL))
        self.socket.settimeout(seconds)

    def receive(self):
        """The next frame from the guest; with headers, (flags, gso, hdr_len, gso_size, start, offset) and the frame."""
        while True:
            data, address = self.socket.recvfrom(1 << 17)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            return (struct.unpack("<BBHHHH", data[:10]), data[10:]) if self.headers else data

    def send(self, frame, header=(0, 0, 0, 0, 0, 0)):
        self.socket.send((struct.pack("<BBHHHH", *header) if self.headers else b"") + frame)

    def close(self):
        self.socket.close()


def checksum(data):
    """The Internet checksum (RFC 1071), not inverted."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(to, source, kind=ETHERTYPE, payload=b""):
    return to + source + struct.pack("!H", kind) + payload


def ipv4(source, to, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, source, to)
    return head[:10] + struct.pack("!H", checksum(head) ^ 0xFFFF) + head[12:] + payload


def pseudo(source, to, protocol, length):
    """What a checksum left to others starts with: the pseudo header's."""
    return checksum(source + to + struct.pack("!HH", protocol, length))


def udp(source, to, port, payload):
    """A datagram whose checksum is left to be done: wrong for who does not know."""
    length = 8 + len(payload)
    return struct.pack("!HHHH", 9999, port, length, pseudo(source, to, 17, length)) + payload


def tcp(source, to, payload, sequence=1):
    """A segment, maybe a large one, whose checksum is left to be done."""
    value = pseudo(source, to, 6, 20 + len(payload))
    return struct.pack("!HHIIBBHHH", 9999, 7777, sequence, 0, 5 << 4, 0x10, 1024, value, 0) + payload
