"""Ends with one line where the Python that runs it is too old or too new; written so that all of them can run it."""

import os
import re
import sys

TOLD = """medsam2_atlas needs Python %s to 3.%d, and %s is %d.%d. \
Remove .venv, if there is one, and name another: make PYTHON=python3.12"""

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pyproject.toml")) as stream:
    lowest, beyond = re.findall(r"3\.\d+", re.search(r"requires-python = .*", stream.read()).group())
if not (int(lowest[2:]) <= sys.version_info[1] < int(beyond[2:]) and sys.version_info[0] == 3):
    sys.exit(TOLD % (lowest, int(beyond[2:]) - 1, sys.executable, sys.version_info[0], sys.version_info[1]))
