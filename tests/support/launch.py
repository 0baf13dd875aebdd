"""Runs scenarios of a worker file under torchrun with two gloo ranks; kills them if they hang."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from paths import PYTHONPATH, SUPPORT


def launch(folder, *scenarios, worker, limit=400, killed_by_last=False, extra=None):
    """Runs the scenarios, one after the other in the same two processes.

    Args:
        folder: where they work; each gets `folder/<scenario>`.
        worker: the file that has the scenarios.
        limit: seconds after which the workers print where they hang and end, then everything is killed.
        killed_by_last: whether the last scenario ends the processes.
        extra: environment variables for it.

    Returns:
        {scenario: [what rank 0 returned, what rank 1 returned]}; None for a rank that did not reach its end.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "WORKER_LIMIT": str(limit), "PYTHONPATH": PYTHONPATH} | (extra or {})
    )
    process = subprocess.Popen(
        [*command, str(SUPPORT / worker), str(folder), *scenarios],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=SUPPORT,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit + 20)  # by then the workers have ended themselves
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{scenarios} hang:\n{output[-8000:]}") from None
    results = {scenario: [_result(folder, scenario, rank) for rank in (0, 1)] for scenario in scenarios}
    unfinished = [scenario for scenario, ranks in results.items() if None in ranks]
    expected = [scenarios[-1]] if killed_by_last else []
    assert unfinished == expected, f"{unfinished} did not end, exit code {process.returncode}:\n{output[-8000:]}"
    assert killed_by_last or process.returncode == 0, f"exit code {process.returncode}:\n{output[-8000:]}"
    return results


def _result(folder, scenario, rank):
    path = Path(folder) / scenario / f"rank{rank}.json"
    return json.loads(path.read_text()) if path.exists() else None
