#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ACPI's reference compiler reads our tables: each disassembles without a warning, and what comes out compiles back.

usage: acpi_iasl.py PATH_OF_TEST_ACPI
The DSDTs must come back as the same terms, byte for byte: then the disassembler understood every one of them.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HEADER_BYTES = 36


def run(*argv, cwd):
    p = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


def check(work, path):
    """The complaint about one table, or None."""
    name = os.path.splitext(os.path.basename(path))[0]
    dsl = os.path.join(work, name + ".dsl")
    rc, out = run("iasl", "-d", "-p", name, path, cwd=work)
    if rc or not os.path.exists(dsl) or re.search(r"warning|error|invalid|unknown", out, re.I):
        return f"{name}: iasl -d: {out}"
    with open(dsl, encoding="utf-8") as f:
        text = f.read()
    if re.search(r"\*\*\*\*|incorrect|invalid|unknown", text, re.I):
        return f"{name}: disassembly: {text}"
    rc, out = run("iasl", "-we", "-oa", "-p", name + "-new", dsl, cwd=work)
    if rc or not re.search(r"\b0 Errors, 0 Warnings", out):
        # A table without terms (MADT, FADT) reports no counts.
        if rc or name.startswith("dsdt") or re.search(r"[1-9]\d* (Errors|Warnings)", out):
            return f"{name}: iasl: {out}"
    with open(path, "rb") as f:
        ours = f.read()
    with open(os.path.join(work, name + "-new.aml"), "rb") as f:
        theirs = f.read()
    if name.startswith("dsdt") and ours[HEADER_BYTES:] != theirs[HEADER_BYTES:]:
        return f"{name}: compiled back to other bytes\n{text}"
    if not name.startswith("dsdt") and len(ours) != len(theirs):
        return f"{name}: {len(ours)} bytes compiled back to {len(theirs)}"
    return None


def expect_dsdt(work):
    """What the largest DSDT must say, in ASL."""
    with open(os.path.join(work, "dsdt14.dsl"), encoding="utf-8") as f:
        text = re.sub(r"\s+", " ", re.sub(r"//[^\n]*|/\*.*?\*/", "", f.read(), flags=re.S))
    missing = [w for w in (
        'Name (_HID, "LNRO0005")', 'EisaId ("PNP0501")', 'EisaId ("PNP0C0C")', 'EisaId ("PNP0B00")', 'Name (_HID, "ACPI0013" )',
        "Memory32Fixed (ReadWrite, 0xD000D000, 0x00001000, )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000017, }",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000004, }",
        "Method (_EVT, 1, Serialized)", "Notify (\\_SB.PWRB, 0x80)", "Name (\\_S5, Package (0x04) { 0x05, Zero, Zero, Zero })",
        "OperationRegion (EREG, SystemMemory, 0xD0100000, One)",
    ) if w not in text]
    return f"dsdt14: not found: {missing}\n{text}" if missing else None


def main():
    if not shutil.which("iasl"):
        print("skip: iasl is not installed (Debian: acpica-tools)")
        return 77
    with tempfile.TemporaryDirectory(prefix="sardine-acpi-") as work:
        subprocess.run([os.path.abspath(sys.argv[1]), work], check=True)
        paths = sorted(glob.glob(os.path.join(work, "*.dat")))
        if len(paths) != 32 + 15 + 1:
            print(f"{len(paths)} tables, not 48")
            return 1
        bad = [c for c in (check(work, p) for p in paths) if c] or [c for c in (expect_dsdt(work),) if c]
        for c in bad[:3]:
            print(c)
        print(f"{len(paths)} tables, {len(bad)} bad")
        return 1 if bad else 0


sys.exit(main())
