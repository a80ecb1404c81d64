# SPDX-License-Identifier: Apache-2.0
"""The host's end of the probe guest (tests/guest): its commands, its patterns, and what its memory costs the host.

`Probe.ask("fill", cpus=2)` sends `@1 fill cpus=2` and returns the answer's keys; `Probe.refuses()` returns the error text.
"""
import ctypes
import errno
import os
import pathlib
import struct

from sardine_test import SardineTest, no_kvm_reason, probe_kernel

PAGE = 4096
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SECTOR = 512
MASK64 = (1 << 64) - 1
NEEDS_RESET = 64
NET, BLOCK, RNG, BALLOON, VSOCK = 1, 2, 4, 5, 19
F_INDIRECT, F_EVENT_IDX = 1 << 28, 1 << 29
IMAGE_BASE = 0x200000
FULL = bool(os.environ.get("SARDINE_FULL"))  # the long forms (./test.sh --full)


class ProbeError(Exception):
    """The guest answered `err`."""


def probe_variant(name):
    """Another build of the probe guest beside the first: probe-linux64.elf, probe.bzimage."""
    path = pathlib.Path(probe_kernel()).with_name(name)
    if not path.exists():
        raise AssertionError(f"{path} was not built")
    return path


def pattern(seed, unit, size):
    """The bytes of a page or sector, as tests/guest/probe.h pattern_base() has them."""
    z = (seed + unit * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    z ^= z >> 31
    return struct.pack(f"<{size // 8}Q", *((z + i * 0xD1342543DE82EF95) & MASK64 for i in range(size // 8)))


def pattern_sectors(seed, first, count):
    return b"".join(pattern(seed, first + i, SECTOR) for i in range(count))


def _value(text):
    try:
        return int(text, 0)
    except ValueError:
        return text


def size(value):
    """Bytes, of a size as --mem takes it."""
    units = {"K": KIB, "M": MIB, "G": GIB}
    return int(value[:-1]) * units[value[-1]] if value[-1] in units else int(value)


class Probe:
    """A running probe guest."""

    def __init__(self, test, vm, mem):
        self.test = test
        self.vm = vm
        self.mem = mem
        self.name = vm.name
        self.pid = vm.pid
        self._id = 0
        self._seen = 0

    def ready(self, seconds=30.0):
        self._seen = self.vm.console.expect("probe: ready\n", seconds, self._seen)
        return self

    def send(self, verb, **args):
        """Send a command; its answer is fetched with answer()."""
        self._id += 1
        words = [f"@{self._id}", verb, *(f"{key}={value}" for key, value in args.items())]
        self.vm.send(" ".join(words) + "\n")
        return self._id

    def answer(self, ident, seconds=30.0):
        mark = f"\n@{ident} "
        start = self.vm.console.expect(mark, seconds, max(self._seen - 1, 0))
        end = self.vm.console.expect("\n", seconds, start)
        self._seen = end
        line = self.vm.console.text()[start:end - 1]
        if line.startswith("err "):
            raise ProbeError(line[4:])
        assert line.startswith("ok"), line
        if " text=" in line:
            return {"text": line.split(" text=", 1)[1]}
        return {key: _value(value) for key, _, value in (word.partition("=") for word in line.split()[1:])}

    def ask(self, verb, seconds=30.0, **args):
        return self.answer(self.send(verb, **args), seconds)

    def refuses(self, verb, seconds=30.0, **args):
        try:
            got = self.ask(verb, seconds, **args)
        except ProbeError as e:
            return str(e)
        raise AssertionError(f"{verb} {args} was to fail; got {got}")

    # Ranges

    def ranges(self, kind):
        """[(from, to)] of "ram" or "usable"."""
        found = self.ask("map")
        texts = [found[key] for key in sorted(found) if key.startswith(kind)]
        return [tuple(int(x, 16) for x in text.split("-")) for text in texts]

    # Devices

    def device(self, kind, nth=0):
        """The number of the nth device of a kind."""
        found = self.ask("virtio")
        numbers = [int(key[1:]) for key, value in found.items() if int(value.split(":")[0]) == kind]
        return sorted(numbers)[nth]

    def blk(self, dev, op, **args):
        return self.ask("blk", dev=dev, op=op, **args)

    # What the host sees

    def maps(self):
        """[(start, end, path)] of the VMM's address space."""
        found = []
        for line in pathlib.Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            start, end = (int(x, 16) for x in fields[0].split("-"))
            found.append((start, end, fields[5] if len(fields) > 5 else ""))
        return found

    def host_address(self):
        """Where the VMM has the guest's first byte: RAM begins at 2 MiB's multiple, and the image lies in it."""
        want = pathlib.Path(probe_kernel()).read_bytes()[PAGE:PAGE + 64]  # the first segment begins at a page
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as mem:
            for start, _, _ in self.maps():
                if start % (2 * MIB):
                    continue
                try:
                    mem.seek(start + IMAGE_BASE)
                    if mem.read(64) == want:
                        return start
                except (OSError, ValueError):
                    continue
        raise AssertionError(f"guest RAM not found in {self.maps()}")

    def ram_rss(self):
        """Rss, in bytes, of the mappings that make up RAM below the hole."""
        low = self.host_address()
        high = low + min(self.mem, 3 * GIB)
        rss, inside = 0, False
        for line in pathlib.Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            first = line.split(maxsplit=1)[0]
            if first[-1] != ":":
                start, end = (int(x, 16) for x in first.split("-"))
                inside = start < high and end > low
            elif inside and first == "Rss:":
                rss += int(line.split()[1]) * KIB
        return rss

    def frames(self, first, count):
        """The host's frame number of each guest page, 0 where none is populated. Needs CAP_SYS_ADMIN."""
        at = self.host_address() // PAGE + first
        with open(f"/proc/{self.pid}/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(at * 8)
            entries = struct.unpack(f"<{count}Q", pagemap.read(count * 8))
        return [entry & ((1 << 55) - 1) if entry >> 63 else 0 for entry in entries]

    def control(self, **request):
        """One request to the control socket; its answer."""
        with self.vm.control() as control:
            return control.ask(request)

    def balloon(self, mib):
        answer = self.control(cmd="balloon", target_mib=mib)
        self.test.assertNotIn("error", answer, answer)

    def stats(self):
        answer = self.control(cmd="stats")
        self.test.assertTrue(answer["ok"], answer)
        return answer["result"]

    def device_stats(self, kind, nth=0):
        return [device for device in self.stats()["devices"] if device["type"] == kind][nth]

    # Its end

    def power_off(self):
        """The guest switches off; the VMM must end with 0."""
        self.send("poweroff")
        self.test.assertEqual(self.vm.wait(), 0, self.vm.log.text())


IO_URING_SETUP = 425


def without_syscall(number):
    """For `preexec`: a seccomp filter under which one system call does not exist."""
    code = ((0x20, 0, 0, 0),  # load the number
            (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000))
    data = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(data)))
    libc = ctypes.CDLL(None, use_errno=True)

    def install():
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):  # NO_NEW_PRIVS, SECCOMP filter
            raise OSError(ctypes.get_errno(), "seccomp")

    install.keep = data
    return install


class ProbeTest(SardineTest):
    """Tests that run the probe guest."""

    def setUp(self):
        reason = no_kvm_reason()
        if reason:
            self.skipTest(reason)
        super().setUp()

    engine = None  # "off": tests that count frames, of which nobody else shares or drops one meanwhile

    def probe(self, name="probe", mem="64M", kernel=None, wait=True, preexec=None, pass_fds=(), **options):
        """A running probe guest; options as of `run`: cpus=2, disk=["path=..", ..]."""
        args = ["--mem", mem]
        if self.engine and "engine" not in options:
            args += ["--engine", self.engine]
        for key, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                args += ["--" + key.replace("_", "-"), one]
        vm = self.start(name, *args, kernel=kernel, preexec=preexec, pass_fds=pass_fds)
        probe = Probe(self, vm, size(mem))
        return probe.ready() if wait else probe

    def image(self, name="disk.img", bytes_=4 * MIB, content=None):
        path = self.dir / name
        with open(path, "wb") as file:
            file.write(content or b"")
            file.truncate(bytes_)
        return path

    def assertSub(self, part, whole):
        """The keys of part are in whole with the same values."""
        self.assertEqual(part, {key: whole.get(key) for key in part}, whole)

