"""Exits with a one-line message if the Python that runs it is too old or too new. Any Python can run this file."""

import os
import re
import sys

MESSAGE = """medsam2_atlas needs Python %s to 3.%d, but %s is Python %d.%d. \
Remove .venv if it exists, and choose another Python: make PYTHON=python3.12"""

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pyproject.toml")) as stream:
    min_version, upper = re.findall(r"3\.\d+", re.search(r"requires-python = .*", stream.read()).group())
if not (int(min_version[2:]) <= sys.version_info[1] < int(upper[2:]) and sys.version_info[0] == 3):
    sys.exit(MESSAGE % (min_version, int(upper[2:]) - 1, sys.executable, sys.version_info[0], sys.version_info[1]))
