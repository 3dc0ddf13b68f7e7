# Each stack has an environment of its own: the stacks overwrite each other's files.
STACK ?= openmmlab
# Another torch than the tested one, such as 2.10.0; kept until another is named.
TORCH ?=
PYTHON ?= python3
VENV ?= $(if $(filter openmmlab,$(STACK)),.venv,.venv-$(STACK))
BIN = $(VENV)/bin

DEMO_DIR = work_dirs/demo
PRETRAINING = configs/demo/pretrain_convnext_atto_shapes.py
DETECTION = configs/demo/cascade_convnext_atto_shapes.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all faults gpu matrix lint clean

help:  ## print this list
	@echo 'make TARGET [STACK=openmmlab|onedl] [TORCH=2.10.0] [PYTHON=python3] [VENV=folder]'
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

setup:  ## install everything into .venv (STACK=onedl: into .venv-onedl); the other targets do this first
	@$(PYTHON) tools/setup_env.py --stack '$(STACK)' --venv '$(VENV)' --torch '$(TORCH)'

demo: setup  ## draw a data set, pre-train on it, train a detector from that, and show its predictions
	$(BIN)/python tools/make_shapes.py data/shapes --train 400
	rm -rf $(DEMO_DIR)
	$(BIN)/python tools/train.py $(PRETRAINING) --work-dir $(DEMO_DIR)/pretraining
	$(BIN)/python tools/train.py $(DETECTION) --work-dir $(DEMO_DIR)/detection --cfg-options \
	    model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint="$$(cat $(DEMO_DIR)/pretraining/last_checkpoint)" \
	    optim_wrapper.paramwise_cfg.decay_rate=0.7 optim_wrapper.paramwise_cfg.decay_type=layer_wise
	$(BIN)/python tools/predict.py $(DETECTION) "$$(cat $(DEMO_DIR)/detection/last_checkpoint)" data/shapes/val2017 --score-thr 0.5 --work-dir $(DEMO_DIR)/detection
	@echo 'Pre-training: accuracy by class and the confusion matrix: $(CURDIR)/$(DEMO_DIR)/pretraining/confusion.png'
	@echo 'Detection: box AP is coco/bbox_mAP above, mask AP coco/segm_mAP, both on validation images.'
	@echo 'Picture of its predictions: $(CURDIR)/$(DEMO_DIR)/detection/predictions/overview.png'

# Two at a time: most tests wait for a tool to start, and more processes would run short of memory with large backbones.
test: setup  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: setup  ## run all tests, including those that take minutes
	$(BIN)/python -m pytest -m ''

faults: setup  ## fault tolerance (docs/fault_tolerance.md): a hundred kills, 15,000 random arguments and annotation files, ...
	KILLS=100 $(BIN)/python -m pytest -q -s tests/engine/test_kills.py -k moments
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest -m '' -n 2 --dist worksteal tests/config/test_fuzz.py tests/engine/test_places.py tests/engine/test_faults.py \
	    tests/datasets/test_image_loading.py tests/weights/test_damage.py tests/engine/test_resume.py tests/engine/test_processes.py

gpu: setup  ## on a GPU: numbers, time, memory, and the settings that fit it (work_dirs/gpu/)
	@mkdir -p work_dirs/gpu
	$(BIN)/python tools/benchmark.py gpu --out work_dirs/gpu/gpu.png --json > work_dirs/gpu/gpu.json
	@grep recommended work_dirs/gpu/gpu.json
	$(BIN)/python -m pytest -m gpu

matrix:  ## set up and test each supported version of torch and Python (docs/versions.md)
	$(PYTHON) tools/test_matrix.py --out work_dirs/versions

lint: setup  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove environments, caches and the files of the demo; your data and runs stay
	rm -rf .venv .venv-onedl $(DEMO_DIR) data/shapes build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
