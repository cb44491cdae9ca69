"""Stand-in for main.py: writes a run's result files, with figures computed from its arguments.

Environment variables: the row named by FAIL fails, and the one named by KILLED is killed. The row named by WAIT waits
for SIGTERM, or with DEAF for SIGINT. Every start appends a line to calls.txt, next to the folders of the rows.
"""

import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

*arguments, last = sys.argv[1:]
workdir = Path(last.removeprefix("--workdir="))
row, seed = workdir.parts[-2:]
with (workdir.parents[1] / "calls.txt").open("a") as calls:
    calls.write(f"{row} {seed} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
if row == os.environ.get("KILLED"):
    os.kill(os.getpid(), signal.SIGKILL)
if row == os.environ.get("FAIL"):
    sys.exit("Traceback\nerror: config.model.depth is 7: it must be one of these\n")
if row == os.environ.get("WAIT"):
    signal.signal(signal.SIGTERM, lambda *_: (workdir / "asked").touch() if os.environ.get("DEAF") else sys.exit(75))
    signal.signal(signal.SIGINT, lambda *_: (workdir / "ended").touch() or sys.exit(130))
    (workdir / "waiting").touch()
    time.sleep(60)
figure = zlib.crc32(" ".join(arguments).encode()) / 2**32
evaluation = {
    "mIoU": figure,
    "pixel_accuracy": 1 - figure / 2,
    "per_class": dict.fromkeys(["sky", "sea", *"abcdefghij"], figure / 2),
    "settings": {"step": 5, "split": "val", "scales": [1.0], "flip": False, "overlap": "sum", "windows": True},
}
if row != "none":
    terms = {f"val_affinity_{name}": figure for name in ("unary", "precision", "recall", "specificity")}
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 5, "evaluation_seconds": 1, **terms}) + "\n")
(workdir / "eval.json").write_text(json.dumps(evaluation))
(workdir / "config.json").write_text(json.dumps({"total_steps": 5}))
