#!/usr/bin/env python3
"""notices.py BILL: what the licences of the libraries in a bill of materials want to be told along, to standard output.

For each crate its licence and the texts that it brings: files named LICENSE, LICENCE, COPYING, NOTICE or COPYRIGHT. A text that
several bring stands once. Same input, same bytes.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

# Of what no crate is, where its source and its licence are.
SOURCES = {
    "glibc": "Its source, with the text of the licence in COPYING.LIB, is that of Debian's package glibc; whoever wants to link "
    "the programs with another one builds them from their own source.",
    "std": "Its source, with the texts of the licences, is https://github.com/rust-lang/rust.",
}
NAMES = re.compile(r"(licen[sc]e|copying|notice|copyright)", re.IGNORECASE)


def texts(folder):
    """The texts of a crate, by the names of their files."""
    files = (it for it in sorted(folder.iterdir()) if it.is_file() and NAMES.match(it.name))
    return [(it.name, it.read_text(encoding="utf-8", errors="replace").strip()) for it in files]


def main():
    bill = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    wanted = {(it["name"], it["version"]) for it in bill["components"] if "purl" in it}
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    seen, without = {}, []
    print("The programs of this package contain the libraries below, each under its own licence.")
    for package in sorted(packages, key=lambda it: (it["name"], it["version"])):
        if (package["name"], package["version"]) not in wanted:
            continue
        title = f"{package['name']} {package['version']}: {package['license'] or 'see below'}"
        found = texts(Path(package["manifest_path"]).parent)
        if not found:
            without.append(title)
            continue
        print(f"\n{'=' * 79}\n{title}")
        for name, text in found:
            if text in seen:
                print(f"\n{name}: as {seen[text]}")
            else:
                seen[text] = f"{name} of {package['name']} {package['version']}"
                print(f"\n{name}:\n\n{text}")
    bundled = [it for it in bill["components"] if it["bom-ref"] in ("glibc", "std")]
    for it in sorted(bundled, key=lambda it: it["name"]):
        licence = it["licenses"][0]
        print(f"\n{'=' * 79}\n{it['name']} {it['version']}: {licence.get('expression') or licence['license']['id']}\n")
        print(f"{it['description']}. {SOURCES[it['name']]}")
    print(f"\n{'=' * 79}\nWithout a text in the crate:\n")
    print("\n".join(without))


main()
