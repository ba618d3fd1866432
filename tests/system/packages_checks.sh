# shellcheck shell=bash
# What packages.sh checks without booting a machine. It has sourced machine.sh before, and made the folders `work` and `made`.
# shellcheck disable=SC2154

# Another folder, home, umask, time zone and language: the same bytes. The copy has no history, so the date is given.
packages_are_reproducible() {
    local copy="$work/elsewhere/a folder" cargo=${CARGO_HOME:-$HOME/.cargo}
    mkdir -p "$copy" "$work/home"
    git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- | tar -x -C "$copy"
    mkdir -p "$copy/target"
    cp -r target/programs "$copy/target/programs"
    (
        SOURCE_DATE_EPOCH=$(packaging/date.sh)
        export SOURCE_DATE_EPOCH CARGO_HOME=$cargo RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
        export HOME=$work/home TZ=Pacific/Kiritimati LC_ALL=C.UTF-8 LANG=tr_TR.UTF-8
        umask 077
        cd "$copy" || exit
        packaging/packages.sh >/dev/null
    )
    diff "$made/SHA256SUMS" "$copy/target/packages/SHA256SUMS" || machine_fail "made twice, the packages differ"
    echo "ok      made twice, in another folder, they are the same bytes"
}

packages_are_summed() {
    (cd "$made" && sha256sum --quiet -c SHA256SUMS)
    local file
    for file in "$made"/*; do
        [ "$file" = "$made/SHA256SUMS" ] || grep -q "  ${file##*/}\$" "$made/SHA256SUMS" || machine_fail "$file has no checksum"
    done
    echo "ok      every file has its checksum"
}

packages_are_linted() {
    lintian --no-cfg --allow-root --fail-on error,warning --tag-display-limit 0 "$made"/*.deb
    # An override that nothing needs any more is a mistake, too.
    local unused
    unused=$(lintian --no-cfg --allow-root --display-info "$made"/*.deb | grep unused-override || true)
    [ -z "$unused" ] || machine_fail "$unused"
    echo "ok      lintian finds nothing"
    local found
    found=$(rpmlint --config packaging/rpm/rpmlint.toml "$made"/*.rpm 2>&1) || { echo "$found"; machine_fail "rpmlint is not content"; }
    case $found in *" 0 errors, 0 warnings"*) ;; *) echo "$found"; machine_fail "rpmlint is not content" ;; esac
    echo "ok      rpmlint finds nothing"
}

# By the schema that the makers of CycloneDX publish, as their own library has it.
bill_is_valid() {
    local environment=target/cyclonedx
    if [ ! -e "$environment/installed" ]; then
        rm -rf "$environment"
        python3 -m venv "$environment"
        "$environment/bin/pip" install -q --disable-pip-version-check 'cyclonedx-python-lib[json-validation]==11.12.0'
        touch "$environment/installed"
    fi
    "$environment/bin/python" - "$made"/*.cdx.json <<'P'
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
if error:
    sys.exit(f"the bill of materials is none: {error}")
bill = json.loads(text)
names = {component["name"] for component in bill["components"]}
known = {component["bom-ref"] for component in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
# Linked; only building; only tested with.
if not {"aisix", "aisix-worker", "tokio", "rustls", "aws-lc", "std", "glibc"} <= names or names & {"cc", "prost-build", "proptest", "syn"}:
    sys.exit("the bill of materials does not have what is linked")
for edge in bill["dependencies"]:
    if not {edge["ref"], *edge["dependsOn"]} <= known:
        sys.exit(f"{edge['ref']} leads to something that is not in the bill of materials")
print(f"ok      the bill of materials is valid: {len(names)} components")
P
}

# in_a_tree deb|rpm with|without PACKAGE: installed into a clean tree in which nothing runs; without means no systemd-sysusers and
# no systemd-tmpfiles, as in most images.
in_a_tree() {
    machine_need mmdebstrap mmdebstrap
    machine_make_tree
    (
        root=$work/tree
        mkdir "$root"
        mount -t tmpfs -o size=1g,mode=755 tmpfs "$root"
        trap 'umount "$root/m" 2>/dev/null; umount "$root"; rmdir "$root"' EXIT
        mkdir "$root/upper" "$root/work" "$root/m"
        mount -t overlay overlay -o "lowerdir=$machine_tree,upperdir=$root/upper,workdir=$root/work" "$root/m"
        [ "$2" = with ] || rm "$root/m/usr/bin/systemd-sysusers" "$root/m/usr/bin/systemd-tmpfiles" "$root/m/bin/systemd-"{sysusers,tmpfiles} 2>/dev/null || true
        cp "$3" tests/system/packages_in_a_tree.sh tests/system/packages_tools.sh "$root/m/root/"
        chroot "$root/m" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
            bash /root/packages_in_a_tree.sh "$1" "/root/$(basename "$3")"
    )
}
