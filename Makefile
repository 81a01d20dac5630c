# `make demo` and `make test` are all one needs; both install what they need into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDIES ?=
ATLAS ?=
CHECKPOINT ?=
HOST ?= 127.0.0.1
PORT ?= 8000
DEVICE ?= cpu
# Test processes. A file's tests stay in one of them: they share servers and other fixtures.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
SIDE_BY_SIDE = -n $(JOBS) --dist loadfile --no-loadscope-reorder

ORTHANC_DATA ?= $(HOME)/.local/share/medsam2_atlas/orthanc

.PHONY: help install lock sbom pin-images wheel startup demo test test-slow lint serve orthanc e2e-tools figures prompts loop large-ct atlas-time gpu full-gpu load fuzz read-time memory inputs settings report-schema tutorial-pictures clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# Which build of torch: cpu, which never uses a GPU, or cuda, which takes 3.8 GB more and uses the processor if there is no GPU.
# The build that is installed stays; a new installation takes cuda if it finds the NVIDIA driver's program. pip never looks for
# a GPU, and the builds of one version look the same to it (and to make).
INSTALLED := $(firstword $(shell sed -n "s/^cuda.*= None$$/cpu/p; s/^cuda.*= '.*'$$/cuda/p" \
	$(VENV)/lib/python3*/site-packages/torch/version.py 2>/dev/null))
TORCH ?= $(or $(INSTALLED),$(if $(shell command -v nvidia-smi),cuda,cpu))
ifneq ($(INSTALLED),$(TORCH))
ifneq ($(INSTALLED),)
ANEW := --force-reinstall
# What the CUDA build has brought, for the CPU build to be the small one.
LEFT := $(if $(filter cpu,$(TORCH)),&& $(BIN)/python -m pip uninstall -qq --yes \
	$(filter-out torch,$(shell sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements/torch-cuda.txt)))
$(VENV)/.installed: another-build
endif
endif
.PHONY: another-build
# Everything is locked with its hash. --no-deps keeps pip from adding what no lock has, --only-binary from building with
# tools that no lock has; what has no wheel is in bundled.txt.
LOCKED := $(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes
WHEELS := $(LOCKED) --only-binary :all:

$(VENV)/.installed: $(wildcard requirements/*.txt) pyproject.toml
	@$(PYTHON) requirements/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python requirements/check_python.py
	$(WHEELS) $(ANEW) -r requirements/torch-$(TORCH).txt --retries 2 $(LEFT) || { test $(TORCH) = cpu && \
		echo "There is no CPU build of torch for this Python here; PyPI's is taken, which brings CUDA (3.8 GB more)." && \
		$(WHEELS) -r requirements/torch-cuda.txt; }
	$(WHEELS) -r requirements/common.txt
	$(LOCKED) --no-build-isolation -r requirements/bundled.txt
	@$(BIN)/python -m pip uninstall -qq --yes pydicom-seg pillow-jpls  # which earlier versions installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt
	$(WHEELS) --quiet -r requirements/dev.txt
	@$(BIN)/python -m pip uninstall -qq --yes rfc3987-syntax lark  # which earlier locks had
	touch $@

install: $(VENV)/.installed  ## create .venv with everything: make install [PYTHON=python3.12] [TORCH=cpu|cuda]

lock: $(VENV)/.installed-dev  ## write requirements/*.txt anew: make lock [CPU_TORCH=folder] [UPGRADE=--upgrade]
	$(BIN)/python requirements/lock.py $(if $(CPU_TORCH),--cpu-torch "$(CPU_TORCH)") $(UPGRADE)

sbom: $(VENV)/.installed-dev  ## what .venv holds, as CycloneDX: dist/sbom.cdx.json
	$(BIN)/python requirements/sbom.py dist/sbom.cdx.json

pin-images:  ## write the digests of the containers' base images into compose.yaml and deploy/, by Docker or Podman
	$(PYTHON) deploy/pin_images.py

wheel: $(VENV)/.installed  ## dist/*.whl, which brings MONAI Label, sam2, demo weights and sample data
	rm -rf build  # where files that are gone since would come from
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .

demo: $(VENV)/.installed  ## the main job on the sample data, through the real server
	$(BIN)/medsam2-atlas demo demo-output

test: $(VENV)/.installed-dev  ## the tests: make test [DEVICE=cuda] [JOBS=1]
	$(BIN)/python -m pytest --durations=10 --device $(DEVICE) $(SIDE_BY_SIDE)

test-slow: $(VENV)/.installed-dev  ## the tests, and those that take minutes
	$(BIN)/python -m pytest -m "slow or not slow" --device $(DEVICE) $(SIDE_BY_SIDE)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/.installed  ## serve the app: make serve STUDIES=folder-or-URL [ATLAS=folder] [CHECKPOINT=file]
	@test -n "$(STUDIES)" || { echo "Name the studies: make serve STUDIES=folder-or-DICOMweb-URL"; exit 2; }
	$(BIN)/medsam2-atlas serve "$(STUDIES)" --host $(HOST) --port $(PORT) \
		$(if $(ATLAS),--atlas "$(ATLAS)") $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

orthanc: e2e-tools  ## an Orthanc on this machine only, for OHIF: make orthanc [ORTHANC_DATA=folder]
	apps/orthanc.sh "$(ORTHANC_DATA)"

e2e-tools:  ## Orthanc, Chromium and Caddy from Debian, where they are missing; asks for root
	@command -v chromium >/dev/null && command -v caddy >/dev/null && { command -v Orthanc >/dev/null || test -x /usr/sbin/Orthanc; } || { \
		root=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$root apt-get update -qq && \
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			orthanc orthanc-dicomweb chromium caddy; }

figures: $(VENV)/.installed  ## the README's figures on generated targets
	$(BIN)/python bench/phantom_dice.py

prompts: $(VENV)/.installed  ## where prompts come to lie, by registration and label fusion
	$(BIN)/python bench/prompts.py

loop: $(VENV)/.installed  ## annotate, learn, choose, again: the curves over rounds on generated patients
	$(BIN)/python bench/loop.py

large-ct: $(VENV)/.installed  ## time and memory of the U-Net on a CT of clinical size
	$(BIN)/python bench/large_ct.py

atlas-time: $(VENV)/.installed  ## time and memory of score maps and prompts on a CT of clinical size
	$(BIN)/python bench/atlas_time.py

gpu: $(VENV)/.installed-dev  ## time, memory and energy on a GPU and on the processor: make gpu [DEVICE=cuda:1]
	$(BIN)/python bench/gpu.py --device $(if $(filter cpu,$(DEVICE)),cuda,$(DEVICE))

full-gpu: $(VENV)/.installed-dev  ## the server on a GPU that another program has filled
	$(BIN)/python bench/full_gpu.py

load: $(VENV)/.installed-dev  ## twenty annotators at once on a real server, for three minutes
	$(BIN)/python bench/load.py

fuzz: $(VENV)/.installed-dev  ## 20,000 files with mutated headers through the routes of a real server
	$(BIN)/python bench/fuzz.py

read-time: $(VENV)/.installed  ## what reading in a reader process costs more than reading in one's own
	$(BIN)/python bench/read_time.py

memory: $(VENV)/.installed-dev  ## whether a server grows over 300 inferences
	$(BIN)/python bench/memory.py

startup: $(VENV)/.installed-dev  ## processor time and libraries that command lines take to start
	$(BIN)/python bench/startup.py

report-schema: $(VENV)/.installed-dev  ## write the JSON schema of reports, docs/report.schema.json
	$(BIN)/python tests/segmenters/report_schema.py

inputs: $(VENV)/.installed-dev  ## write the table of input kinds into docs/inputs.md
	$(BIN)/python tests/files/page.py

settings: $(VENV)/.installed-dev  ## write the tables of settings into docs/settings.md
	$(BIN)/python tests/settings_page.py

tutorial-pictures: $(VENV)/.installed-dev e2e-tools  ## run docs/tutorial.md and take its pictures: make tutorial-pictures [FOLDER=of an earlier run]
	$(BIN)/python bench/tutorial_pictures.py $(if $(FOLDER),"$(FOLDER)")

clean:  ## remove what was built
	rm -rf $(VENV) demo-output build dist lib/*.egg-info
