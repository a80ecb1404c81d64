#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The slow, obvious counter: sorts all pages by their bytes and compares neighbours. No hashes. Raw dumps only.

    slow_count.py [--page-size N] FILE...     prints what `sardine analyze --json` should say
"""
import argparse
import itertools
import json
import sys

HUGE = 2 << 20


def pages_of(path, size):
    """The whole pages of a file, in order."""
    with open(path, "rb") as f:
        return list(iter(lambda: f.read(size), b""))


def blocks_of(pages, per_block):
    """Pages glued to blocks; what is left at the end is no block."""
    whole = len(pages) // per_block * per_block
    return [b"".join(pages[i:i + per_block]) for i in range(0, whole, per_block)]


def equal_groups(blocks):
    """Positions of equal blocks, found by sorting the bytes; zero blocks are left out."""
    zero = {}
    order = sorted((b, i) for i, b in enumerate(blocks) if b != zero.setdefault(len(b), bytes(len(b))))
    return [[i for _, i in group] for _, group in itertools.groupby(order, key=lambda x: x[0])]


def is_fill(page):
    """One 8-byte word over and over, and not zero."""
    return page == page[:8] * (len(page) // 8) and page[:8] != bytes(8)


def count_runs(images, groups, number):
    """Lay the contents that occur twice or more out in the order of their first page; measure runs of neighbours."""
    place = {g[0]: n for n, g in enumerate(sorted(g for g in groups if len(g) > 1))}
    where = {i: place[g[0]] for g in groups if len(g) > 1 for i in g}
    lengths = []
    at = 0
    for pages in images:
        previous = None
        for i in range(at, at + len(pages)):
            here = where.get(i)
            if here is not None:
                if previous is not None and here == previous + 1:
                    lengths[-1] += 1
                else:
                    lengths.append(1)
            previous = here
        at += len(pages)
    return [{"min_pages": 1 << k, "pages": sum(n for n in lengths if n >= 1 << k)} for k in range(number)]


def count_sizes(images, page):
    """The same for larger blocks."""
    sizes = []
    size = page
    while size <= HUGE:
        blocks = [b for pages in images for b in blocks_of(pages, size // page)]
        groups = equal_groups(blocks)
        nonzero = sum(len(g) for g in groups)
        sizes.append({"page_size": size, "pages": len(blocks), "zero": len(blocks) - nonzero,
                      "distinct_nonzero": len(groups),
                      "duplicate_pages": sum(len(g) for g in groups if len(g) > 1),
                      "saved_pages": nonzero - len(groups)})
        size *= 2
    return sizes


def count(paths, page=4096, sizes=True):
    images = [[p for p in pages_of(path, page) if len(p) == page] for path in paths]
    everything = [p for pages in images for p in pages]
    starts = list(itertools.accumulate((len(p) for p in images), initial=0))
    groups = equal_groups(everything)
    twice = {i for g in groups if len(g) > 1 for i in g}
    nonzero = sum(len(g) for g in groups)

    def image_of(i):
        return max(k for k in range(len(images)) if starts[k] <= i and images[k])

    held = [{image_of(i) for i in g} for g in groups]
    rows = []
    intra = 0
    for k, pages in enumerate(images):
        mine = range(starts[k], starts[k + 1])
        zero = sum(p == bytes(page) for p in pages)
        duplicate = sum(i in twice for i in mine)
        rows.append({"path": paths[k], "pages": len(pages), "zero": zero, "fill": sum(map(is_fill, pages)),
                     "duplicate": duplicate, "unique": len(pages) - zero - duplicate})
        intra += len(pages) - zero - sum(k in h for h in held)
    saved = nonzero - len(groups)
    result = {
        "page_size": page,
        "images": rows,
        "total": {"pages": len(everything), "zero": len(everything) - nonzero,
                  "fill_pages": sum(r["fill"] for r in rows), "nonzero_pages": nonzero,
                  "distinct_nonzero": len(groups), "duplicate_pages": len(twice), "saved_pages": saved,
                  "saved_pct_nonzero": round(100 * saved / nonzero, 2) if nonzero else 0,
                  "intra_pages": intra, "inter_pages": saved - intra},
        "runs": count_runs(images, groups, 10),
        "pairs": [[sum(a in h and b in h for h in held) for b in range(len(images))] for a in range(len(images))],
        "top": [{"count": len(g), "first_image": image_of(g[0]), "first_page": g[0] - starts[image_of(g[0])],
                 "preview": everything[g[0]][:16].hex()}
                for g in sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))[:10]],
    }
    if sizes:
        result["sizes"] = count_sizes(images, page)
        huge = result["sizes"][-1]
        result["huge"] = {"blocks": huge["pages"], "zero": huge["zero"], "identical": huge["duplicate_pages"]}
    return result


def differences(slow, fast):
    """Lines about every number that the slow counter has and the other one says otherwise."""
    lines = []

    def compare(name, a, b):
        if isinstance(a, dict):
            for key in a:
                if key != "path":
                    compare(f"{name}.{key}", a[key], b.get(key) if isinstance(b, dict) else None)
        elif isinstance(a, list):
            if not isinstance(b, list) or len(a) != len(b):
                lines.append(f"{name}: {len(a)} items, not {b!r:.60}")
            else:
                for i, (x, y) in enumerate(zip(a, b)):
                    compare(f"{name}[{i}]", x, y)
        elif a != b and not (isinstance(a, float) and abs(a - b) < 0.011):
            lines.append(f"{name}: {a}, not {b}")

    compare("", slow, fast)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page-size", type=int, default=4096)
    parser.add_argument("--no-sizes", action="store_true", help="only pages, no larger blocks: faster")
    parser.add_argument("--against", metavar="JSON", help="compare with the output of sardine analyze --json instead")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    counted = count(arguments.files, arguments.page_size, not arguments.no_sizes)
    if not arguments.against:
        json.dump(counted, sys.stdout, indent=2)
        print()
        sys.exit(0)
    with open(arguments.against, encoding="utf-8") as other:
        found = differences(counted, json.load(other))
    print("\n".join(found) if found else "equal")
    sys.exit(bool(found))
