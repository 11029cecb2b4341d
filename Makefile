# `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: run
run: ## profile this machine: sets up, builds, starts everything (RUN_SECONDS=30 ends by itself)
	@scripts/run.sh

.PHONY: test
test: ## set up and run every test
	@scripts/test.sh

.PHONY: test-chart
test-chart: ## the tests of the Helm chart alone, which are part of `make test`
	@scripts/test-chart.sh

.PHONY: e2e
e2e: ## the tests on a real Kubernetes cluster alone, which is part of `make test`
	@scripts/e2e.sh

.PHONY: test-faults
test-faults: ## kill every process 20 times at every point, and print what was lost or doubled
	@scripts/test-faults.sh

.PHONY: test-kernels
test-kernels: ## boot other kernels in qemu and sample in them
	@scripts/test-kernels.sh

.PHONY: check
check: ## format, lints, modules, fuzz targets, licences
	@scripts/check.sh

.PHONY: check-arm64
check-arm64: ## whether all but the node agent compiles for arm64
	@scripts/check-arm64.sh

.PHONY: bench
bench: ## benchmarks beside perf and bpftrace
	@scripts/bench.sh

.PHONY: images
images: ## container images for deploy/, by docker, podman or buildah
	@scripts/images.sh

.PHONY: generate
generate: ## write what is generated from the code and the chart (CRDs, schema, README, deploy/kubernetes)
	@cargo run --quiet --package hearth-policy --features crd --bin hearth-crds -- deploy/crds charts/hearth/files/crds
	@scripts/generate.sh

.PHONY: fmt
fmt: ## format the code
	@cargo fmt --all
