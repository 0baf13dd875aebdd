"""Where the project is, and what a process that a test starts must have on its path."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, TESTS, ROOT)))
