# Everything that is needed is installed by the target that needs it; `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help serve test test-full quick lint bench faults models docs figures soak lock manifests deploy-test debian containers

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

serve: $(INSTALLED)  ## Serve the models of models/ on port 8000 (ARGS="--port 9000" …)
	$(BIN)/gradless serve $(ARGS)

# Two workers, each with whole files: half of the time of a test is waiting; a third one made it slower on two cores. With
# more threads than cores, those of OpenMP would spin. Bytecode spares a server that starts from compiling the service.
# Durations are in build/durations.xml.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --junitxml build/durations.xml
test: lint debian  ## Everything that CI runs: lint, then all tests (12 minutes)
	$(PYTEST) $(ARGS)

test-full: lint debian  ## The same, with the full forms of the tests that have one
	$(PYTEST) -m 'not soak and not deploy' $(ARGS)

quick: $(INSTALLED)  ## The unit tests, in seconds
	$(BIN)/python -m pytest -x -q tests/unit $(ARGS)

lint: $(INSTALLED)  ## ruff, mypy --strict, the import contracts, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

bench: $(INSTALLED)  ## The server beside the bare loop and three others, in one run (10 minutes); writes docs/performance.md
	$(BIN)/gradless bench --plot docs/figures/performance.png --report docs/performance.md $(ARGS)

faults: $(INSTALLED) debian  ## Run the fault matrix, break each guard once, and write docs/faults.md (30 minutes)
	$(BIN)/python -m tests.support.fault_matrix >docs/faults.md.new && mv docs/faults.md.new docs/faults.md

models: $(INSTALLED)  ## Prove torchvision's 80 models and write docs/models.md (20 minutes)
	$(BIN)/python -m tests.support.catalogue >docs/models.md.new && mv docs/models.md.new docs/models.md

docs: $(INSTALLED)  ## The documentation as pages, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

figures: $(INSTALLED)  ## Measure and draw the figures of docs/gradient-control.md again
	$(BIN)/python -m service.audit.gallery docs/figures

deploy-test: $(INSTALLED) debian containers  ## The image, the manifests and clusters for real (30 minutes, 25 GB of disk)
	@test "$$(id -u)" = 0 || { echo "make deploy-test needs root, to build and limit containers: sudo make deploy-test" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[test,ray]'
	$(BIN)/python -m pytest -m deploy --timeout 1500 $(ARGS)

soak: $(INSTALLED) debian  ## The long forms of the timed tests
	$(BIN)/python -m pytest -m soak -s --timeout 3600 $(ARGS)

# Of the versions in .venv, which the tests ran with. What depends on the device is in a file of its own, which an index
# of torch wheels takes the place of.
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --no-annotate --universal --python-version 3.11 \
	--generate-hashes --constraints .venv/versions.txt
DEVICE := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==.*
lock: $(INSTALLED)  ## Write the versions and hashes that an image is built from: deploy/requirements*.lock
	$(BIN)/python -m pip freeze --exclude-editable >.venv/versions.txt
	printf 'torch\ntorchvision\n' | $(LOCK) - --output-file deploy/requirements-torch.lock
	$(LOCK) pyproject.toml --extra openvino $$(sed -nE 's/$(DEVICE)/--no-emit-package=\1/p' deploy/requirements-torch.lock) \
		--output-file deploy/requirements.lock

manifests: $(INSTALLED)  ## Write again what deploy/kubernetes/ holds of rules and models
	$(BIN)/python -m tests.support.manifests

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps 'silero-vad>=6.2'  # for its weights: of what it needs, tests need nothing
	touch $@

# Tests hold /metrics against promtool, which Debian ships in prometheus, set clocks back with libfaketime, restart
# replicas behind haproxy, and listen to a recording of alsa-utils.
debian:
	@if ! command -v promtool >/dev/null || ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/sbin/haproxy \
			/usr/share/sounds/alsa/Front_Center.wav >/dev/null 2>&1; then \
		sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get update -qq && \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			prometheus libfaketime haproxy alsa-utils >/dev/null || \
		echo "Debian's packages prometheus, libfaketime, haproxy and alsa-utils are missing and could not be installed" >&2; \
	fi

# What builds and runs an image without a registry.
containers:
	@for tool in buildah podman runc mmdebstrap catatonit; do command -v $$tool >/dev/null || missing=1; done; \
	if [ "$$missing" ]; then \
		sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$sudo apt-get update -qq && \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			buildah podman runc mmdebstrap catatonit >/dev/null || { \
		echo "Debian's packages buildah, podman, runc, mmdebstrap and catatonit could not be installed" >&2; exit 1; }; \
	fi
