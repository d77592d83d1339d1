#!/usr/bin/env bash
# Runs the tests of the model and of the recognizer with the lowest versions that pyproject.toml allows.
#
#   bash scripts/check_lowest.sh [PYTHON]
#
# PYTHON is a version that uv finds (3.11 when not given). The environment lies in a temporary folder and needs 6 GB.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
uv venv --quiet --python "${1:-3.11}" "$environment"
uv pip install --quiet --python "$environment/bin/python" --resolution lowest-direct -e '.[train]'
# The tools of the tests themselves may be of today.
uv pip install --quiet --python "$environment/bin/python" pytest pytest-xdist psutil parameterized pip filelock 'scikit-image>=0.23'
"$environment/bin/python" -m pytest -p no:cacheprovider \
  tests/model/test_configuration.py tests/model/test_modeling.py tests/model/test_image_processing.py \
  tests/test_recognizer.py
