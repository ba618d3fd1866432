#!/bin/bash
# The Kubernetes manifests against the schemas of Kubernetes, of the oldest version that is still run and of the newest that is
# known, unknown fields refused. How a pod mounts what they say is tried by container.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools=target/tools/kubernetes
validate=$tools/bin/kubernetes-validate
if ! "$validate" --version 2>/dev/null | grep -q 1.37.0; then
    command -v python3 >/dev/null || { echo "python3 is missing; install it and try again: sudo apt-get install python3-venv" >&2; exit 1; }
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q kubernetes-validate==1.37.0
fi
for version in 1.29 1.37; do
    "$validate" --strict --quiet -k "$version" packaging/kubernetes/*.yaml
    echo "ok      valid for Kubernetes $version"
done
# What could not fail would show nothing.
broken=$(mktemp --suffix=.yaml)
trap 'rm -f "$broken"' EXIT
sed 's/enableServiceLinks:/enableServiceLink:/' packaging/kubernetes/aisix.yaml >"$broken"
if "$validate" --strict --quiet -k 1.37 "$broken" >/dev/null 2>&1; then
    echo "FAILED  a field that does not exist is accepted" >&2
    exit 1
fi
echo "ok      a field that does not exist is refused"
# A release must not leave the version before in them.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
for file in packaging/kubernetes/*.yaml packaging/compose/compose.yaml; do
    wrong=$(grep -n 'image: aisix' "$file" | grep -v ":$version\$" || true)
    [ -z "$wrong" ] || { echo "FAILED  $file names another version than $version: $wrong" >&2; exit 1; }
done
echo "ok      manifests and compose file name version $version"
