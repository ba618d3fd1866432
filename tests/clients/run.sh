#!/bin/bash
# The official OpenAI and Anthropic Python clients against the built gateway, in an environment of their own. The packages
# come from the Python package index at the first run. Usage: tests/clients/run.sh FOLDER-OF-PROGRAMS [PAIR ...]
set -euo pipefail

programs=$(realpath "${1:-target/debug}")
here=$(realpath "$(dirname "$0")")
environment="$here/../../target/clients"
for tool in python3 etcd etcdctl; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 0; }
done

if ! cmp -s "$here/requirements.txt" "$environment/installed"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$environment/installed"
fi
exec "$environment/bin/python" -B "$here/check.py" "$programs" "${@:2}"
