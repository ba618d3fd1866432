#!/usr/bin/env python3
"""bill.py VERSION: the bill of materials of the two programs (CycloneDX 1.5, JSON), to standard output.

What is really linked, and nothing of what only builds or tests: the dependencies that Cargo resolves for each program alone, with
its features and for this target, without build dependencies and procedural macros; the standard library; the C library that is
linked statically. Same input, same bytes. Not cargo-cyclonedx: it makes a document for each member of the workspace.
"""

import json
import os
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone

# Programs as packaging/programs.sh builds them: name, package.
PROGRAMS = [("aisix", "supervisor"), ("aisix-worker", "worker")]
# C that a crate brings along and compiles: crate -> name of the library.
BUNDLED = {"aws-lc-sys": "aws-lc"}


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def rust(field):
    return next(line.split(": ", 1)[1] for line in output("rustc", "-vV").splitlines() if line.startswith(field + ": "))


def linked(package, target):
    """The packages linked into a program, and who needs whom: {(name, version): {(name, version)}}."""
    lines = output(
        "cargo", "tree", "--locked", "--no-dedupe", "-p", package, "--target", target,
        "-e", "normal,no-proc-macro", "--prefix", "depth", "--format", " {p}",
    ).splitlines()
    graph, path = {}, []
    for line in filter(None, lines):
        depth, name, version = line.split()[:3]
        one = (name, version.lstrip("v"))
        graph.setdefault(one, set())
        path[int(depth):] = [one]
        if len(path) > 1:
            graph[path[-2]].add(one)
    return graph


def main():
    version = sys.argv[1]
    target = rust("host")
    date = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), timezone.utc)
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))
    packages = {(it["name"], it["version"]): it for it in metadata["packages"]}
    members = {(it["name"], it["version"]) for it in metadata["packages"] if it["source"] is None}
    with open("Cargo.lock", "rb") as lock:
        sums = {(it["name"], it["version"]): it.get("checksum") for it in tomllib.load(lock)["package"]}

    def reference(one):
        return f"pkg:cargo/{one[0]}@{one[1]}"

    components, edges = {}, {}
    programs = []
    for program, package in PROGRAMS:
        graph = linked(package, target)
        root = next(one for one in graph if one[0] == package)
        for one, needs in graph.items():
            edges.setdefault(reference(one), set()).update(map(reference, needs))
            found = packages[one]
            component = {"type": "library", "bom-ref": reference(one), "name": one[0], "version": one[1]}
            if found["description"]:
                component["description"] = " ".join(found["description"].split())
            if found["license"]:
                # `MIT/Apache-2.0` is how it was written before there were expressions.
                component["licenses"] = [{"expression": found["license"].replace("/", " OR ")}]
            if one not in members:
                component["purl"] = reference(one)
                component["hashes"] = [{"alg": "SHA-256", "content": sums[one]}]
                if found["repository"]:
                    component["externalReferences"] = [{"type": "vcs", "url": found["repository"]}]
            components[component["bom-ref"]] = component
            if one[0] in BUNDLED:
                bundled = f"{BUNDLED[one[0]]}@{one[1]}"
                components[bundled] = {
                    "type": "library", "bom-ref": bundled, "name": BUNDLED[one[0]],
                    "description": f"C library within {one[0]} {one[1]}",
                    "licenses": component["licenses"],
                }
                edges[reference(one)].add(bundled)
        programs.append({
            "type": "application", "bom-ref": program, "name": program, "version": version,
            "licenses": [{"expression": "Apache-2.0"}],
        })
        edges[program] = {reference(root), "std", "glibc"}

    components["std"] = {
        "type": "library", "bom-ref": "std", "name": "std", "version": rust("release"),
        "description": "Rust's standard library", "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }
    components["glibc"] = {
        "type": "library", "bom-ref": "glibc", "name": "glibc", "version": output("getconf", "GNU_LIBC_VERSION").split()[1],
        "description": "GNU C library, linked statically", "licenses": [{"license": {"id": "LGPL-2.1-or-later"}}],
    }
    edges["aisix-package"] = {program for program, _ in PROGRAMS}

    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": "",
        "version": 1,
        "metadata": {
            "timestamp": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application", "bom-ref": "aisix-package", "name": "aisix", "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            },
            "properties": [{"name": "target", "value": target}],
        },
        "components": sorted(programs + list(components.values()), key=lambda it: it["bom-ref"]),
        "dependencies": [{"ref": ref, "dependsOn": sorted(needs)} for ref, needs in sorted(edges.items())],
    }
    # Another document has another number, the same one the same.
    bill["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True)).urn
    json.dump(bill, sys.stdout, indent=1, ensure_ascii=False)
    print()


main()
