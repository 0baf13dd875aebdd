"""What one rank does in an audit: see `worker.py` and `test_audit_on_two_ranks.py`."""

import contextlib
import io
import os
from pathlib import Path

import worker

from spinal_callback import audit
from spinal_callback.cli.main import main
from spinal_callback.probe.forward import Forward

PLACE = Path(os.environ.get("PLACE", "."))
WITH_PAIRS = {  # every token of the prompts, and gradients of five pairs, which two ranks cannot share evenly
    "position": "prompt",
    "pairs": [{"prompt": f"w{i} w{i + 1}", "chosen": f" w{2 * i}", "rejected": f" w{3 * i} w1"} for i in range(5)],
    "beta": 0.3,
}


def audits(folder):
    """Through Python, then the command, then the command used wrongly."""
    rows, real = [], Forward.states

    def counted(self, *args):
        states = real(self, *args)
        rows.append(states.shape[1])
        return states

    Forward.states = counted
    found = audit(PLACE / "new", PLACE / "base", PLACE / "prompts.jsonl")
    Forward.states = real
    paired = audit(PLACE / "new", PLACE / "base", PLACE / "prompts.jsonl", **WITH_PAIRS)
    words = ["audit", str(PLACE / "new"), "--base", str(PLACE / "base"), "--prompts", str(PLACE / "prompts.jsonl")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out):
        codes = [main([*words, "-o", str(folder / "audit.jsonl"), "--force"])]
    with contextlib.redirect_stderr(err):
        codes.append(main(["audit", "/nowhere/at/all", "-o", str(folder / "none.jsonl")]))
    result = {"found": found.to_json(), "rows": sum(rows), "printed": out.getvalue(), "codes": codes}
    result["paired"] = paired.to_json()
    for reading in result["found"]["readings"] + result["paired"]["readings"]:  # what each process measures for itself
        reading["seconds"] = reading["peak_bytes"] = 0
    return result | {"error": err.getvalue()}


if __name__ == "__main__":
    worker.main(globals())
