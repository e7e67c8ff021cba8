timeout 580 /work/main/.venv/bin/python -m pytest tests/integration/test_buildah.py -q -k "$1" 2>&1 | grep -E "^E  |passed|failed|Error|^tests" | cut -c 1-600 | head -${2:-60}
