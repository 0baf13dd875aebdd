"""`spinal audit` against the bare forward passes over the same prompts.

    python scripts/benchmarks/bench_audit.py [--prompts hh.jsonl.gz] [--num-prompts 512] [--runs 3] [--model MODEL]
    python scripts/benchmarks/bench_audit.py --preset paper [...]   # the paper's protocol; it has no limit

SmolLM2-135M-Instruct (or `--model`), alternating in one process. An audit is everything after the process start:
loading, tokenizing, the check of the lens, forward passes, lens, spectra and errors of a checkpoint without a base. The
bare passes are the decoder's over the same tokens in the same batches, on a model that is loaded already. Times are
processor time, so that other work on the machine does not count. Memory is by how much the reading raised the peak of
the process, after the bare passes have run in it. Exit code 1 if the median ratio is above 1.3; the paper's protocol
reads every token of a prompt with the lens, so it costs many times the passes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT / "scripts")]

from reproduce_paper import prompts_of  # noqa: E402
from smollm2 import smollm2  # noqa: E402
from timing import seconds, use_processor_time  # noqa: E402

from spinal_callback import SpinalConfig, audit  # noqa: E402
from spinal_callback.auditing.checkpoints import find  # noqa: E402
from spinal_callback.auditing.settings import PRESETS, settings  # noqa: E402
from spinal_callback.probe import Probe  # noqa: E402
from spinal_callback.probe.prompts import PromptSet  # noqa: E402

LIMIT = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--prompts", help="HH pairs (.jsonl.gz) or prompts; the project's own if left out")
    parser.add_argument("--num-prompts", type=int, default=512)
    parser.add_argument("--preset", choices=tuple(PRESETS), help="the protocol to time")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    use_processor_time()
    path, rows = args.model or str(smollm2()), prompts_of(args.prompts, args.num_prompts)
    config = settings(None, {"num_prompts": len(rows)}, (), args.preset)
    passes = bare(path, rows, dataclasses.replace(config, position="last"))
    ratios, found = [], []
    for _ in range(args.runs):
        forward = seconds(passes)
        whole = seconds(lambda: found.append(audit(path, prompts=rows, config=config)))
        ratios.append(whole / forward)
        print(f"forward passes {forward:7.1f} s   audit {whole:7.1f} s   ratio {ratios[-1]:.2f}", flush=True)
    middle, memory = statistics.median(ratios), max(one.readings[0].peak_bytes for one in found)
    limit = LIMIT if args.preset is None else math.inf
    print(f"{len(rows)} prompts, median ratio {middle:.2f}, limit {limit}; memory {memory / 2**20:.0f} MiB")
    return int(middle > limit)


def bare(path: str, rows: list[Any], config: SpinalConfig) -> Any:
    """The forward passes alone, over the tokens that the audit reads."""
    checkpoint = find(path)
    model, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    prompts = PromptSet.collect(rows, tokenizer, config)
    lengths = [len(ids) for ids in prompts.ids]
    print(f"{sum(lengths)} tokens in {len(lengths)} prompts, {min(lengths)} to {max(lengths)}", flush=True)
    sampler = Probe(model, prompts, config).sampler

    def passes() -> None:
        with torch.no_grad():
            sampler.forward.states(sampler.forward.shares(), sampler.at_a_time["tokens"])

    return passes


if __name__ == "__main__":
    sys.exit(main())
