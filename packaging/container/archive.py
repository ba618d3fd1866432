#!/usr/bin/env python3
"""archive.py FOLDER NAME:TAG EPOCH RESULT: a Docker archive of the image that FOLDER has as an unpacked one.

What the build tool makes up anew each time (the name of its working container, that of its host) is left out, and so are the
files that only Docker before 1.10 reads. What remains: manifest.json, the image's configuration, its layers.
"""
import hashlib
import io
import json
import pathlib
import sys
import tarfile


def main(folder, name, epoch, result):
    folder = pathlib.Path(folder)
    (image,) = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / image["Config"]).read_text())
    for made_up in ("container", "container_config"):
        config.pop(made_up, None)
    config["config"]["Hostname"] = ""
    config_text = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    config_name = hashlib.sha256(config_text).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": image["Layers"]}]

    with tarfile.open(result, "w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name, size, content):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = size, epoch, 0o644
            archive.addfile(entry, content)

        for layer in image["Layers"]:
            path = folder / layer
            with path.open("rb") as content:
                add(layer, path.stat().st_size, content)
        for entry, text in (config_name, config_text), ("manifest.json", json.dumps(manifest).encode()):
            add(entry, len(text), io.BytesIO(text))
    print(f"sha256:{config_name.removesuffix('.json')}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
