"""Peak memory of a probe beyond the bare forward pass, beside the naive method's.

    python scripts/benchmarks/bench_memory.py [--runs 3] [--only forward|probe|naive] [--model MODEL]

SmolLM2-135M-Instruct (or `--model`), the 64 probe prompts of the quickstart, each method in a process of its own on the
CPU; the figure is the median over `--runs` of the process's peak resident memory: what an allocator gives back in time
differs from run to run. The naive method is the notebooks': `output_hidden_states=True`,
softmax over the vocabulary at all positions of every layer, one layer after the other.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from smollm2 import smollm2  # noqa: E402

from spinal_callback import SpinalConfig  # noqa: E402
from spinal_callback.probe import Probe  # noqa: E402
from spinal_callback.probe.prompt_files import SHIPPED  # noqa: E402
from spinal_callback.probe.prompts import PromptSet, collect  # noqa: E402

LIMIT = 128  # MiB that the probe may add to the forward's own


def load(path: str) -> tuple[Any, PromptSet]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    rows = [json.loads(line) for line in SHIPPED.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(path)
    return model, collect(rows, tokenizer, count=64, longest=256, with_answers=False, seed=0)


def forward(model: Any, prompts: PromptSet) -> None:
    """The bare forward passes, in the probe's own batches."""
    sampler = Probe(model, prompts, SpinalConfig()).sampler
    with torch.no_grad():
        sampler.forward.states(sampler.forward.shares(), sampler.at_a_time["tokens"])


def probe(model: Any, prompts: PromptSet) -> None:
    """Two readings: the first keeps the reference, the second is held against it."""
    measured = Probe(model, prompts, SpinalConfig())
    measured.read(step=0)
    measured.read(step=1)


@torch.no_grad()
def naive(model: Any, prompts: PromptSet) -> None:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts.ids], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(p)) for p in prompts.ids], batch_first=True)
    hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    below: Tensor | None = None
    for h in hidden[1:]:
        p = model.lm_head(model.model.norm(h)).softmax(-1)
        if below is not None:
            2 * (below.sqrt() * p.sqrt()).sum(-1).clamp(max=1).arccos()
        below = p


METHODS = {"forward": forward, "probe": probe, "naive": naive}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--runs", type=int, default=3, help="processes for each method")
    parser.add_argument("--only", choices=METHODS, help="run one method here and print its peak")
    args = parser.parse_args()
    path = args.model or str(smollm2())
    if args.only:
        model, prompts = load(path)
        METHODS[args.only](model, prompts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"peak": peak}))
        return 0
    peaks = {name: [peak_of(name, path) for _ in range(args.runs)] for name in METHODS}
    middle = {name: statistics.median(values) for name, values in peaks.items()}
    print(f"{'method':10}{'peak MiB':>10}{'beyond forward':>16}   each run")
    for name, peak in middle.items():
        each = ", ".join(f"{value:.0f}" for value in peaks[name])
        print(f"{name:10}{peak:>10.0f}{peak - middle['forward']:>16.0f}   {each}")
    return int(middle["probe"] - middle["forward"] > LIMIT)


def peak_of(method: str, path: str) -> float:
    """MiB at the most, in a process of its own."""
    command = [sys.executable, __file__, "--model", path, "--only", method]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(out.splitlines()[-1])["peak"])


if __name__ == "__main__":
    sys.exit(main())
