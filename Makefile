.PHONY: setup test
.venv/ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -e . pytest
	touch $@
setup: .venv/ready
test: .venv/ready
	.venv/bin/python -m pytest
