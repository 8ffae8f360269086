"""Importing the data room stays light: tables are read by libraries that load when they are needed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_pandas_pyarrow_and_torch_are_not_loaded_by_importing_the_room():
    heavy = "('pandas', 'pyarrow', 'torch')"
    code = f"import sys, llm_rec.data, llm_rec.data.sources; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
