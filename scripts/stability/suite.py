"""Runs what is missing of a tier: `python scripts/stability/suite.py --tier TIER [--jobs 2] [--only GLOB]
[--limit MINUTES] [--hh PATH]`.

A run that is done (its truth file is there) is skipped, so a suite that was killed goes on where it was. Each worker is
a process of one thread that keeps its model loaded. One line a run; exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from arms import TIERS, TINY, Job, jobs

TRACES = Path(__file__).parent / "traces"
_WHERE: Any = None  # a worker's setting, loaded once


def missing(tier: str, only: str, hh: bool) -> list[Job]:
    """What has still to be run, in the tier's own order."""
    told = {path.name.removesuffix(".truth.json") for path in (TRACES / tier).glob("*.truth.json")}
    return [job for job in jobs(tier, hh) if job.name not in told and fnmatch.fnmatch(job.name, only)]


def _start(tier: str, cache: Path, hh: Path | None) -> None:
    """In each worker: load what its runs share."""
    global _WHERE
    import run
    import torch

    torch.set_num_threads(1)
    run.quiet()
    _WHERE = run.setting(tier, cache, hh)


def _one(job: Job) -> str:
    """In a worker: one run and its files; what is said of it."""
    import run
    from harm import harm_step

    told = run.run(_WHERE, job.arm, job.seed)
    run.write(job, told)
    at = harm_step(told.truth["heldout"], TIERS[job.tier].long)
    said = "not harmed" if at is None else f"harmed at step {at}"
    since = f" (onset {told.truth['onset']})" if told.truth.get("onset") is not None else ""
    return f"{said}{since}, {told.truth['seconds']:.0f} s"


def work(todo: list[Job], workers: int, limit: float, start: tuple[Any, ...]) -> int:
    """Runs `todo` until done or until `limit` seconds are over; how many failed."""
    until, failed, done = time.monotonic() + limit, 0, 0
    total, queue, running = len(todo), list(todo), dict[Future[str], Job]()
    # spawn: torch does not survive a fork with threads
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=start) as pool:
        while queue or running:
            while queue and len(running) < workers and time.monotonic() < until:
                job = queue.pop(0)
                running[pool.submit(_one, job)] = job
            if not running:
                print(f"time is up: {len(queue)} of {total} runs are left; the same command goes on")
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, done = running.pop(future), done + 1
                try:
                    said = future.result()
                except Exception as error:  # the others are worth having
                    failed, said = failed + 1, f"FAILED: {error!r}"
                print(f"{done}/{total}  {job.name:24} {job.half:4}  {said}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", default="*", help="a glob of names such as 'x10-*-s0'")
    parser.add_argument("--limit", type=float, default=float("inf"), help="minutes after which no run is begun")
    parser.add_argument("--hh", type=Path, help="harmless-base-test.jsonl.gz of HH-RLHF: adds the arms that use it")
    parser.add_argument("--cache", type=Path, default=Path("runs/stability"), help="where the small model is kept")
    parser.add_argument("--list", action="store_true", help="say what is missing and run nothing")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers
    todo = missing(args.tier, args.only, hh=args.hh is not None)
    if args.list:
        print("\n".join(f"{job.name:24} {job.half}" for job in todo))
        return 0
    if args.tier in TINY and todo:
        from small import tiny

        tiny(args.tier, args.cache)  # made once, before the workers would all make it
    return int(work(todo, args.jobs, args.limit * 60, (args.tier, args.cache, args.hh)) > 0) if todo else 0


if __name__ == "__main__":
    sys.exit(main())
