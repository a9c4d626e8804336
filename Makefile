# What a person types. `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
IMG ?= photo.jpg
RESTORE = $(BIN)/harness predict -i img=@$(IMG) \
  $(if $(SCALE),-i scale=$(SCALE)) $(if $(VERSION),-i version=$(VERSION)) $(if $(OUT),-o $(OUT))

.DEFAULT_GOAL := help
.PHONY: help setup weights predict demo serve image schema check push rehearse bench fmt lint test clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/installed ## make .venv and install everything into it

.venv/installed: requirements.txt requirements-harness.txt requirements-dev.txt pyproject.toml scripts/install
	scripts/install $(PYTHON)

weights: setup ## download the weights that the default inputs need; VERSION= adds another version's
	$(BIN)/harness weights fetch $(if $(VERSION),--version $(VERSION))

predict: weights ## restore a photo: make predict IMG=photo.jpg [SCALE=2] [VERSION=v1.4] [OUT=restored.png]
	$(RESTORE)

demo: setup ## the whole pipeline on a public-domain photo with stand-in weights: no download of weights
	$(BIN)/python scripts/demo.py

schema: setup ## write .cog/openapi_schema.json from predict.py
	$(BIN)/python -m harness.schema -o .cog/openapi_schema.json

serve: weights ## the local Replicate on http://127.0.0.1:8000
	$(BIN)/harness serve

image: weights ## build the container image
	$(BIN)/harness image

check: setup ## the gate: may this version be pushed? ARGS=--standins where there are no weights
	$(BIN)/harness check $(ARGS)

push: weights ## to Replicate as a private model, through the gate: make push MODEL=owner/name [SMOKE=yes|no|ask]
	$(BIN)/harness push $(MODEL) $(if $(SMOKE),--smoke $(SMOKE))

rehearse: $(if $(findstring --standins,$(ARGS)),setup,weights) ## the push without an account, on this machine alone; ARGS=--standins: no download
	$(BIN)/harness push --rehearse $(ARGS)

bench: setup ## time the engine beside the reference implementation
	$(BIN)/python scripts/bench.py $(ARGS)

fmt: setup ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: setup ## ruff and mypy
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

test: lint ## lint, then the whole suite; what needs a GPU, Docker or weights is skipped with the reason
	$(BIN)/pytest $(ARGS)

clean: ## remove everything that make made, but not the weights
	rm -rf .venv .cog .harness build *.egg-info
