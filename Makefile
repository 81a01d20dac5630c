# Most users need only `make demo` and `make test`; both first install their requirements into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDIES ?=
ATLAS ?=
CHECKPOINT ?=
HOST ?= 127.0.0.1
PORT ?= 8000
DEVICE ?= cpu
EVALUATION ?= evaluation
OPTIONS ?=
SEGMENTERS ?= atlas,B,D,reference-3,unet_3d
# Number of test processes. The tests of a file run in the same process, because they share servers and other fixtures.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
SIDE_BY_SIDE = -n $(JOBS) --dist loadfile --no-loadscope-reorder

ORTHANC_DATA ?= $(HOME)/.local/share/medsam2_atlas/orthanc

.PHONY: help install lock sbom pin-images wheel startup demo test test-slow lint serve orthanc e2e-tools evaluate prompts loop large-ct atlas-time gpu full-gpu performance batch-bench load fuzz worklist-bench folder-dicomweb read-time memory inputs settings report-schema docs commands troubleshooting pictures tutorial-pictures clean

help:  ## list these targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# The build of torch: cpu, which never uses a GPU, or cuda, which takes 3.8 GB more and uses the CPU if there is no GPU.
# An installed build is kept; a new installation takes cuda if nvidia-smi is installed. pip never looks for a GPU, and neither
# pip nor make can distinguish the builds of one version.
INSTALLED := $(firstword $(shell sed -n "s/^cuda.*= None$$/cpu/p; s/^cuda.*= '.*'$$/cuda/p" \
	$(VENV)/lib/python3*/site-packages/torch/version.py 2>/dev/null))
TORCH ?= $(or $(INSTALLED),$(if $(shell command -v nvidia-smi),cuda,cpu))
ifneq ($(INSTALLED),$(TORCH))
ifneq ($(INSTALLED),)
ANEW := --force-reinstall
# Removes the CUDA libraries that the CUDA build has installed, when the CPU build replaces it.
LEFT := $(if $(filter cpu,$(TORCH)),&& $(BIN)/python -m pip uninstall -qq --yes \
	$(filter-out torch,$(shell sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements/torch-cuda.txt)))
$(VENV)/.installed: another-build
endif
endif
.PHONY: another-build
# Each package is locked with its hash. With --no-deps, pip installs no package that is not locked; with --only-binary, it builds
# nothing with tools that are not locked. Packages without a wheel are in bundled.txt.
LOCKED := $(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes
WHEELS := $(LOCKED) --only-binary :all:

$(VENV)/.installed: $(wildcard requirements/*.txt) pyproject.toml
	@$(PYTHON) requirements/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python requirements/check_python.py
	$(WHEELS) $(ANEW) -r requirements/torch-$(TORCH).txt --retries 2 $(LEFT) || { test $(TORCH) = cpu && \
		echo "No CPU build of torch is available for this Python; installing PyPI's build with CUDA (3.8 GB more)." && \
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

install: $(VENV)/.installed  ## create .venv and install the project: make install [PYTHON=python3.12] [TORCH=cpu|cuda]

lock: $(VENV)/.installed-dev  ## rewrite the locks, requirements/*.txt: make lock [CPU_TORCH=folder] [UPGRADE=--upgrade]
	$(BIN)/python requirements/lock.py $(if $(CPU_TORCH),--cpu-torch "$(CPU_TORCH)") $(UPGRADE)

sbom: $(VENV)/.installed-dev  ## list the packages in .venv as CycloneDX: dist/sbom.cdx.json
	$(BIN)/python requirements/sbom.py dist/sbom.cdx.json

pin-images:  ## write the digests of the containers' base images to compose.yaml and deploy/, with Docker or Podman
	$(PYTHON) deploy/pin_images.py

wheel: $(VENV)/.installed  ## build dist/*.whl, which contains MONAI Label, sam2, demo weights and sample data
	rm -rf build  # a previous build may contain files that have been removed since
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist .

demo: $(VENV)/.installed  ## segment a sample CT through the real server, and compare all strategies: make demo [KEEP=1]
	$(BIN)/medsam2-atlas demo demo-output $(if $(KEEP),--keep)

test: $(VENV)/.installed-dev  ## run the tests: make test [DEVICE=cuda] [JOBS=1]
	$(BIN)/python -m pytest --durations=10 --device $(DEVICE) $(SIDE_BY_SIDE)

test-slow: $(VENV)/.installed-dev  ## run all tests, including those that take minutes
	$(BIN)/python -m pytest -m "slow or not slow" --device $(DEVICE) $(SIDE_BY_SIDE)

lint: $(VENV)/.installed-dev  ## run ruff, mypy and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

serve: $(VENV)/.installed  ## start the server: make serve STUDIES=folder-or-URL [ATLAS=folder] [CHECKPOINT=file]
	@test -n "$(STUDIES)" || { echo "Name the studies: make serve STUDIES=folder-or-DICOMweb-URL"; exit 2; }
	$(BIN)/medsam2-atlas serve "$(STUDIES)" --host $(HOST) --port $(PORT) \
		$(if $(ATLAS),--atlas "$(ATLAS)") $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

orthanc: e2e-tools  ## start an Orthanc that only this machine can reach, for OHIF: make orthanc [ORTHANC_DATA=folder]
	apps/orthanc.sh "$(ORTHANC_DATA)"

e2e-tools:  ## install Orthanc, Chromium and Caddy from Debian (needs root), the annotator's viewer and axe-core, if they are missing
	@test ! -x $(BIN)/python || $(BIN)/python tests/e2e/axe.py
	@test ! -x $(BIN)/medsam2-atlas || $(BIN)/medsam2-atlas viewer | grep -q @ohif/app || $(BIN)/medsam2-atlas viewer fetch
	@command -v chromium >/dev/null && command -v caddy >/dev/null && { command -v Orthanc >/dev/null || test -x /usr/sbin/Orthanc; } || { \
		root=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$root apt-get update -qq && \
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			orthanc orthanc-dicomweb chromium caddy; }

# The phantoms are rendered and the atlas is built once; `evaluate` itself runs only what is missing.
evaluate: $(VENV)/.installed  ## evaluate segmenters on generated targets: make evaluate [SEGMENTERS=…] [OPTIONS=…] [EVALUATION=folder]
	mkdir -p "$(EVALUATION)"
	test -e "$(EVALUATION)/.targets" || { $(BIN)/medsam2-atlas phantoms "$(EVALUATION)/targets" --count 6 --seed 99 && \
		touch "$(EVALUATION)/.targets"; }
	test -e "$(EVALUATION)/atlas/atlas.json" || $(BIN)/medsam2-atlas atlas build sample-data/references "$(EVALUATION)/atlas"
	$(BIN)/medsam2-atlas evaluate --images "$(EVALUATION)/targets/images" --labels "$(EVALUATION)/targets/labels" \
		--atlas "$(EVALUATION)/atlas" --segmenters $(SEGMENTERS) --out "$(EVALUATION)/results" $(OPTIONS)

prompts: $(VENV)/.installed  ## measure prompt accuracy, by registration and label fusion
	$(BIN)/python bench/prompts.py

loop: $(VENV)/.installed  ## simulate rounds of annotation and training on generated patients, and plot the Dice curves
	$(BIN)/python bench/loop.py

large-ct: $(VENV)/.installed  ## measure time and memory of the U-Net on a CT of clinical size
	$(BIN)/python bench/large_ct.py

atlas-time: $(VENV)/.installed  ## measure time and memory of score maps and prompts on a CT of clinical size
	$(BIN)/python bench/atlas_time.py

gpu: $(VENV)/.installed-dev  ## measure time, memory and energy on a GPU and on the CPU: make gpu [DEVICE=cuda:1]
	$(BIN)/python bench/gpu.py --device $(if $(filter cpu,$(DEVICE)),cuda,$(DEVICE))

full-gpu: $(VENV)/.installed-dev  ## test the server on a GPU whose memory another program has filled
	$(BIN)/python bench/full_gpu.py

batch-bench: $(VENV)/.installed-dev  ## measure batches: losses of a cluster, 10,000 cases, throughput against the cost model
	$(BIN)/python bench/batch.py losses
	$(BIN)/python bench/batch.py many
	$(BIN)/python bench/batch.py many --cluster
	$(BIN)/python bench/batch.py throughput --cases 24 --case-seconds 2

# Two threads measure truly only on an idle machine. The cases of 100 and 235 slices are modelled from unit costs.
performance: $(VENV)/.installed-dev  ## compare MedSAM2's engine with the published loop, and write docs/performance.md
	$(BIN)/python bench/engine.py --case small 14 100 235 --threads 1 2 --json bench/engine.json
	$(BIN)/python bench/engine.py --page bench/engine.json

load: $(VENV)/.installed-dev  ## measure a server's response times with twenty annotators, for three minutes
	$(BIN)/python bench/load.py

fuzz: $(VENV)/.installed-dev  ## send 20,000 files with mutated headers to the routes of a real server
	$(BIN)/python bench/fuzz.py

worklist-bench: $(VENV)/.installed-dev  ## measure a server's worklist with 5,000 cases in a folder and in a PACS
	$(BIN)/python bench/worklist.py

folder-dicomweb: $(VENV)/.installed-dev  ## measure how fast a studies folder shows a CT of clinical size to viewers
	$(BIN)/python bench/folder_dicomweb.py

read-time: $(VENV)/.installed  ## measure the overhead of reading an image in a reader process
	$(BIN)/python bench/read_time.py

memory: $(VENV)/.installed-dev  ## measure whether a server's memory grows over 300 inferences
	$(BIN)/python bench/memory.py

startup: $(VENV)/.installed-dev  ## measure the processor time of command lines at start, and list the libraries that they load
	$(BIN)/python bench/startup.py

report-schema: $(VENV)/.installed-dev  ## write the JSON schema of reports, docs/report.schema.json
	$(BIN)/python tests/segmenters/report_schema.py

inputs: $(VENV)/.installed-dev  ## write the table of input kinds to docs/inputs.md
	PYTHONPATH=tests $(BIN)/python tests/files/page.py

settings: $(VENV)/.installed-dev  ## write the tables of settings to docs/settings.md
	PYTHONPATH=tests:apps/medsam2_atlas $(BIN)/python tests/settings_page.py

commands: $(VENV)/.installed-dev  ## write the tables of commands to docs/commands.md
	PYTHONPATH=tests $(BIN)/python tests/commands_page.py

troubleshooting: $(VENV)/.installed-dev  ## write the error messages to docs/troubleshooting.md
	PYTHONPATH=tests $(BIN)/python tests/troubleshooting_page.py

docs: $(VENV)/.installed-dev  ## build the documentation for reading offline: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: $(VENV)/.installed-dev e2e-tools  ## draw the pictures of docs/method.md, docs/annotating.md, docs/worklist.md and of the README
	$(BIN)/python bench/method_picture.py
	$(BIN)/python bench/ohif_picture.py
	$(BIN)/python bench/annotator_pictures.py
	$(BIN)/python bench/worklist_pictures.py

tutorial-pictures: $(VENV)/.installed-dev e2e-tools  ## run docs/tutorial.md and take its pictures: make tutorial-pictures [FOLDER=of an earlier run]
	$(BIN)/python bench/tutorial_pictures.py $(if $(FOLDER),"$(FOLDER)")

clean:  ## remove .venv and all built files
	rm -rf $(VENV) demo-output build dist site lib/*.egg-info
