# Two commands do everything, from a fresh clone: `make demo` and `make test`.

.DEFAULT_GOAL := help
.PHONY: help demo test test-system build dist profile packages programs bench bench-profile format lint check tools package-tools test-tools bench-tools

# $(call need,TEST,NAME,PACKAGES): what is missing is installed if we are root, else named in one line.
define need
@$(1) || { \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    echo "installing $(3)" && apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(3); \
  else \
    echo "$(2) is missing; install it and try again: sudo apt-get install $(3)" >&2; exit 1; \
  fi; }
endef

# The LLVM of the compiler, asked for where it is needed.
LLVM = $(shell rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: programs ## run everything on this machine and walk the managed guide; ONCE=1 leaves after the checks
	@target/debug/aisix-demo

test: test-tools programs format lint check ## everything that a change must pass

test-system: programs packages ## packages, unit and image for real: systemd, rpm, podman, official clients; needs root
	tests/system/unit.sh target/programs target/debug
	tests/system/packages.sh target/debug
	tests/system/container.sh target/programs target/debug
	tests/system/kubernetes.sh
	tests/system/compose.sh target/programs
	tests/clients/run.sh target/debug
	$(call need,command -v valgrind >/dev/null,valgrind,valgrind)
	tests/bench/instructions.sh

build: tools ## release programs, in target/release
	cargo build --release --locked -p supervisor
	cargo build --release --locked -p worker --bin aisix-worker

dist: tools ## the programs of the packages, linked statically, in target/programs
	@packaging/programs.sh

profile: tools ## how the programs are used, for the compiler that makes those of the packages: packaging/pgo
	$(call need,packaging/profile.sh can-merge 2>/dev/null,llvm-profdata of this compiler's LLVM,llvm-$(LLVM))
	@packaging/profile.sh

packages: dist package-tools ## deb, rpm, container image, bill of materials and checksums, in target/packages
	@packaging/packages.sh

programs: tools ## development programs, in target/debug: those of the demo and the tests
	@cargo build --workspace --locked || { \
	  echo "the build failed; if that is for want of a network: cargo needs its crates once, run 'cargo fetch --locked' where there is one" >&2; \
	  exit 1; }

bench: dist bench-tools ## the gateway beside nginx and HAProxy, in one run; needs two idle cores; BENCH holds arguments, such as --quick
	cargo build --release --config profile.release.lto=false --config profile.release.codegen-units=16 --config 'profile.release.panic="unwind"' \
	  --locked -p tests --example bench --bin aisix-cloud
	@GATEWAY_BIN_DIR=$(CURDIR)/target/release target/release/examples/bench --programs target/programs --out target/bench $(BENCH)

bench-profile: bench-tools ## what the profile of use brings: the gateway built with it and without, in one run
	@PLAIN=$(CURDIR)/target/plain CARGO_TARGET_DIR=$(CURDIR)/target/plain packaging/programs.sh
	@$(MAKE) --no-print-directory bench BENCH="--only requests,streams --plain target/plain/programs $(BENCH)"

format: ## formatting
	cargo fmt --all --check

lint: tools ## clippy, warnings denied
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@test -z "$$(cargo tree --locked -e normal -i ring 2>/dev/null)" || { echo "ring has come in: there is one crypto provider, aws-lc-rs" >&2; exit 1; }

check: programs test-tools ## unit, property and end-to-end tests
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace --locked; \
	else \
	  cargo test --workspace --locked --lib --bins --tests --no-fail-fast; \
	fi

# What the build needs beyond a Rust toolchain.
tools:
	@command -v cargo >/dev/null || { echo "cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }
	$(call need,command -v cc >/dev/null,a C compiler,gcc libc6-dev)
	$(call need,test -e "$$(dirname "$$(command -v protoc)")/../include/google/protobuf/any.proto",protoc,protobuf-compiler libprotobuf-dev)

# What packages are made with.
package-tools:
	$(call need,command -v rpmbuild >/dev/null,rpmbuild,rpm)
	$(call need,command -v buildah >/dev/null,buildah,buildah)
	$(call need,command -v python3 >/dev/null,python3,python3)

# What the benchmark compares with, and where resources are.
bench-tools: tools
	$(call need,command -v nginx >/dev/null,nginx,nginx-light)
	$(call need,command -v haproxy >/dev/null,HAProxy,haproxy)
	$(call need,command -v etcd >/dev/null,etcd,etcd-server)

# What the tests need beyond that.
test-tools: tools
	$(call need,command -v etcd >/dev/null,etcd,etcd-server)
	$(call need,command -v redis-server >/dev/null,redis-server,redis-server)
# The status page is tried in a browser; without one that test says so and goes on.
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core; } || \
	  echo "chromium is missing: the status page is not tried in a browser" >&2
	@command -v promtool >/dev/null || test -x target/tools/promtool || tests/system/promtool.sh target/tools
