# Each target sets up what it needs; a fresh machine needs git, make and Python 3.10 or later.
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
RUNTIME_VENV := .venv-runtime
RELEASE_VENV := .venv-release
BIN := $(VENV)/bin
PIN := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-header --no-annotate
DATA ?= ../shared/data/dubai

.PHONY: constraints audit digests demo docs test test-all fuzz test-runtime check lint types contracts release clean student gpu-kit

# The runtime without torch: a sample raster, its mask, a picture; then the same with --fast, and how many pixels differ.
demo: $(DEMO_VENV)/.installed
	@mkdir -p demo
	$(DEMO_VENV)/bin/rsedge sample demo/town.tif --size 4096 --seed 7
	$(DEMO_VENV)/bin/rsedge infer demo/town.tif --out demo/mask.tif --preview demo/preview.png
	@echo "With --fast; the first time it measures for some seconds what is fastest here:"
	@$(DEMO_VENV)/bin/rsedge infer demo/town.tif --out demo/fast.tif --fast | grep -E '^(model|speed) '
	@$(DEMO_VENV)/bin/python -c "import rasterio; a, b = (rasterio.open(f'demo/{n}.tif').read(1) for n in ('mask', 'fast')); \
		print(f'differ   {(a != b).mean():.2%} of the pixels')"
	@echo "Look at demo/preview.png; open demo/mask.tif in QGIS beside demo/town.tif."

# Two workers, a file at a time; a test that measures memory has a process of its own.
PYTEST := pytest -n 2 --dist loadfile

# What a contributor runs at each change; `make test-all` adds the slow ones.
test: $(VENV)/.installed
	$(BIN)/$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed
	$(BIN)/$(PYTEST)

# 5,000 mutated rasters, 1,000 bundles, 2,000 unfinished runs: about twenty minutes.
fuzz: $(VENV)/.installed
	$(BIN)/$(PYTEST) -m fuzz

# The runtime's tests where there is no torch, as on a device. For JetPack 6: PYTHON=python3.10.
test-runtime: $(RUNTIME_VENV)/.installed
	$(RUNTIME_VENV)/bin/python -m $(PYTEST) tests/runtime tests/sample

# What CI runs: style, types, import contracts, the documentation, tests.
check: lint types contracts docs test-all

# The documentation as a site, site/index.html. A broken link or reference is an error, but not with --quiet. Fetches nothing.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile*

types: $(VENV)/.installed
	$(BIN)/mypy

contracts: $(VENV)/.installed
	$(BIN)/lint-imports

# What is published, in dist/: the sdist and the wheel made of it, which must be the one that this tree makes and must work
# where there is nothing else; what the runtime depends on there (sbom.json, CycloneDX) with its licences.
release: $(VENV)/.installed
	rm -rf dist $(RELEASE_VENV)
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m build --wheel --outdir dist/tree && cmp dist/*.whl dist/tree/*.whl && rm -r dist/tree
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install --quiet "$$(echo dist/*.whl)[cpu]"
	$(RELEASE_VENV)/bin/python -m pip check
	cd $(RELEASE_VENV) && bin/rsedge --version && bin/rsedge sample town.tif --size 512 --quiet \
		&& bin/rsedge infer town.tif --out mask.tif && rm town* mask*
	$(RELEASE_VENV)/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/sbom.json $(RELEASE_VENV)
	cp docker/requirements/cpu.txt dist/requirements-cpu.txt
	cp docker/requirements/cpu-openvino.txt dist/requirements-cpu-openvino.txt
	$(BIN)/pip-licenses --python $(RELEASE_VENV)/bin/python --format markdown --with-urls --output-file dist/licences.md

# The packages that images and releases are made with, by version and hash; renew them before a release. Needs an index.
constraints: $(VENV)/.installed
	$(PIN) --extra cpu pyproject.toml -o docker/requirements/cpu.txt
	$(PIN) --extra cpu --extra openvino pyproject.toml -o docker/requirements/cpu-openvino.txt
	printf 'onnxruntime-gpu==1.23.2\npycuda>=2025.1\n' | $(PIN) --extra gpu pyproject.toml - -o docker/requirements/gpu.txt
	printf 'pycuda>=2025.1.2\n' | $(PIN) --extra cpu pyproject.toml - -o docker/requirements/jetson.txt
	printf 'hatchling\n' | $(PIN) - -o docker/requirements/build.txt

# Known holes in those packages. Needs a network: it asks the index (or `AUDIT="-s osv"`).
audit: $(VENV)/.installed
	for file in docker/requirements/*.txt; do $(BIN)/pip-audit $(AUDIT) --disable-pip --require-hashes -r $$file || exit 1; done

# Names the images that the Dockerfiles begin from by digest, so that nobody can put others under their tags. Needs docker.
digests:
	for tag in $$(sed -nE 's/^(FROM|ARG RUNTIME=) ?([^@ $$]+:[^@ ]+).*/\2/p' docker/Dockerfile* | sort -u); do \
		digest=$$(docker buildx imagetools inspect $$tag --format '{{.Manifest.Digest}}') || exit 1; \
		sed -i -E "s|$$tag(@sha256:[0-9a-f]+)?|$$tag@$$digest|" docker/Dockerfile*; done

# A default model like the shipped one, from random weights (an hour and a half on two cores). DATA holds the Dubai scenes.
student: $(VENV)/.installed
	$(BIN)/rsedge distill --alone --data $(DATA) --val tile7 --encoder-weights none --augment mild --crop 256 --steps 7000 --lr 1.5e-3 \
		--sample-share 0.35 --validate-every 0 --out runs/alone
	$(BIN)/rsedge distill --teacher runs/alone --teacher-weights last --start runs/alone/weights.safetensors \
		--encoder-weights none --augment mild --crop 256 --steps 2400 --lr 6e-4 --seed 43 --sample-share 0.3 --validate-every 0 --out runs/shipped
	$(BIN)/rsedge export --run runs/shipped --weights last --out runtime/models/landcover5-b0.rsedge
	@# The wheel's bundle links to some of these files and lists those.
	$(BIN)/python -c "from rsedge.model.bundle import *; \
		write_bundle_manifest(DEFAULT_BUNDLE, Bundle.open('runtime/models/landcover5-b0.rsedge').manifest)"

# Wheels for a GPU machine without a network, in pieces of 60 MB (benchmarks/gpu_kit.py). For an H200: SM=90.
gpu-kit: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu_kit.py make .gpu-kit $(if $(SM),--sm $(SM))

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet editables hatchling setuptools wheel torch
	@# sam2 comes as source and would fetch a second torch to build with; its CUDA extension is not needed.
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

$(DEMO_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	@# OpenVINO is what x86 processors are fastest with; it has no wheel for some others.
	$(DEMO_VENV)/bin/python -m pip install --quiet --editable ".[cpu,openvino]" || $(DEMO_VENV)/bin/python -m pip install --quiet --editable ".[cpu]"
	@touch $@

$(RUNTIME_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RUNTIME_VENV)
	$(RUNTIME_VENV)/bin/python -m pip install --quiet --editable ".[cpu,polygons,dask,report]" hypothesis onnx pytest pytest-xdist
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(RUNTIME_VENV) $(RELEASE_VENV) .gpu-kit demo dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
