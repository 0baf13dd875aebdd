"""What reading answers adds to a probe: `python scripts/benchmarks/bench_answers.py [--cpu-time] [--repeats N]`.

SmolLM2-135M-Instruct (or `--model`), 64 prompts and as many preference pairs as `answers=` says, of the recipes' own
data. Probes with and without answers are timed in turn, and the figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics

import timing
import torch
from bench_memory import ROOT
from smollm2 import smollm2
from timing import in_turn, peak_mib, ratio
from transformers import AutoModelForCausalLM, AutoTokenizer

from spinal_callback import SpinalConfig
from spinal_callback.probe import Probe
from spinal_callback.probe.prompts import PromptSet

PAIRS = (0, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cpu_time:
        timing.use_processor_time()
    path = args.model or str(smollm2())
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    lines = (ROOT / "recipes" / "data" / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    rows, probes = [json.loads(line) for line in lines], {}
    for pairs in PAIRS:
        config = SpinalConfig(answers=pairs)
        probes[str(pairs)] = Probe(model, PromptSet.collect(rows, tokenizer, config), config)
        probes[str(pairs)].read(0)
    took = in_turn(args.repeats, **{name: functools.partial(probe.read, 1) for name, probe in probes.items()})
    print(f"{'answers':>8}{'seconds':>9}{'times':>7}{'MiB':>6}")
    for name, probe in probes.items():
        times, peak = ratio(took[name], took["0"]), peak_mib(functools.partial(probe.read, 1))
        print(f"{name:>8}{statistics.median(took[name]):>9.2f}{times:>7.2f}{peak:>6.0f}", flush=True)


if __name__ == "__main__":
    main()
