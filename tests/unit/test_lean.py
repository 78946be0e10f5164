"""What a lean process does not load."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys
from smartscale.app import stage
stage("ingest")
import pyarrow as pa
batch = pa.record_batch({"a": pa.array([1, None]), "b": pa.array(["x", "y"]).dictionary_encode()})
assert batch.to_pylist() == [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]
print("pandas" in sys.modules)
import pandas
assert pandas.DataFrame({"a": [1]})["a"].sum() == 1
"""


def test_ingest_does_without_pandas_and_pandas_stays_whole() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
