"""What a probe costs, against what the machine could do at best.

    python scripts/benchmarks/bench_probe.py [PART ...]

    stages    forward, lens, spectra, statistics, logging: time, as a multiple of its floor, peak memory
    naive     the notebooks' way (all hidden states, softmax over the vocabulary at all positions of every layer)
    before    the whole probe against another commit's (`--before REF`, checked out into a temporary folder)
    training  how many training steps a probe takes as long as, and the share of wall time that makes
    scaling   with prompts, layers and vocabulary, on a small random model; memory with the vocabulary
    ranks     two processes with one thread each against one
    gpu       an 8B Llama shape with random bfloat16 weights; only where there is a GPU

SmolLM2-135M-Instruct (or `--model`) and the 64 probe prompts of the quickstart. Floors are counted products over the
machine's own rate for them, measured again in each repeat; whatever is compared is measured in turn, and the figure is
the median of the ratios. `--cpu-time` counts processor time of one thread instead of wall time: what other work on a
shared machine takes is left out. Memory is what a stage adds at its highest; of whole processes: `bench_memory.py`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import timing
import torch
from bench_memory import ROOT, load, naive
from smollm2 import smollm2
from timing import Work, in_turn, peak_mib, product, ratio
from transformers import LlamaConfig, LlamaForCausalLM

from spinal_callback import MemorySink, SpinalCallback, SpinalConfig
from spinal_callback.distributed import collectives
from spinal_callback.probe import MEASURES, Probe, View
from spinal_callback.probe.prompt_files import SHIPPED
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.records import dump_record
from spinal_callback.trainer.schedule import Cost, Schedule


@torch.no_grad()
def stages(path: str, repeats: int) -> None:
    model, prompts = load(path)
    probe = Probe(model, prompts, SpinalConfig())
    first = probe.read(0)
    sampler, forward = probe.sampler, probe.sampler.forward
    parts, reference = forward.shares(), probe.reference
    hidden = forward.states(parts, sampler.at_a_time["tokens"])
    depth, rows, width = hidden.shape
    vocabulary = sampler.parts.vocabulary
    bare = Probe(model, prompts, SpinalConfig()).sampler.forward  # has not looked for a common prefix
    weights = sum(p.numel() for layer in sampler.parts.layers for p in layer.parameters())
    real = sum(map(len, prompts.ids))
    padded, run = (sum(_tokens(f, prompts)) for f in (bare, forward))
    shared = len(forward.shared_prefix)
    print(f"{len(prompts.ids)} prompts, {real} tokens; {run} are run, {shared} of them once for all prompts")
    own = real - shared * sum(batch.skip > 0 for batch in _plan(forward, prompts) for _ in batch.prompts)
    waste = 1 - real / padded, 1 - (own + shared) / run
    print(f"padding: {waste[1]:.1%} of what is run, {waste[0]:.1%} if every prompt is run whole")
    products, operations = product(depth * rows, width, 2048)
    folder = tempfile.mkdtemp()
    view = View(reference, reference, probe.window, torch.ones(depth, dtype=torch.float64))  # type: ignore[arg-type]

    def log() -> None:
        with open(Path(folder) / "trace.jsonl", "a", encoding="utf-8") as file:
            file.write(dump_record(first) + "\n")

    works: dict[str, Work] = {
        "bare": lambda: bare.states(parts, sampler.at_a_time["tokens"]),
        "forward": lambda: forward.states(parts, sampler.at_a_time["tokens"]),
        "lens": lambda: sampler.read_lens(hidden, parts[0], reference),
        "spectra": lambda: sampler.read_spectra(hidden),
        "statistics": lambda: [measure(view) for measure in MEASURES.values()],
        "logging": log,
        "probe": lambda: probe.read(1),
    }
    took = in_turn(repeats, products=products, **works)
    peaks = {name: statistics.median(peak_mib(work) for _ in range(repeats)) for name, work in works.items()}
    floors = {
        "bare": 2.0 * weights * real,
        "forward": 2.0 * weights * run,
        "lens": 2.0 * depth * rows * width * vocabulary,
    }
    rate = [operations / t for t in took["products"]]
    print(f"products of matrices: {statistics.median(rate) / 1e9:.0f} GFLOP/s")
    print(f"{'':12}{'seconds':>9}{'MiB':>7}{'floor':>9}{'times its floor':>17}")
    for name, peak in peaks.items():
        floor = [floors[name] / r for r in rate] if name in floors else None
        figures = f"{statistics.median(floor):>9.3f}{ratio(took[name], floor):>17.2f}" if floor else ""
        print(f"{name:12}{statistics.median(took[name]):>9.4f}{peak:>7.0f}{figures}")
    print(f"whole probe / bare forward over the same prompts: {ratio(took['probe'], took['bare']):.2f}", flush=True)


def _plan(forward: Any, prompts: PromptSet) -> list[Any]:
    return forward.plan(list(range(len(prompts.ids))), 4096)


def _tokens(forward: Any, prompts: PromptSet) -> list[int]:
    """Tokens of each batch that runs, padding and the shared prefix counted."""
    plan = _plan(forward, prompts)
    sizes = [len(b.prompts) * max(len(prompts.ids[i]) - b.skip for i in b.prompts) for b in plan]
    return [*sizes, len(forward.shared_prefix)]


@torch.no_grad()
def against_naive(path: str, repeats: int, count: int) -> None:
    model, prompts = load(path)
    prompts = PromptSet(prompts.ids[:count], prompts.answers[:count])
    probe = Probe(model, prompts, SpinalConfig())
    probe.read(0)
    took = in_turn(max(repeats // 4, 1), naive=lambda: naive(model, prompts), probe=lambda: probe.read(1))
    middle = {name: statistics.median(times) for name, times in took.items()}
    print(
        f"naive {middle['naive']:.1f} s, probe {middle['probe']:.2f} s: {ratio(took['naive'], took['probe']):.1f} times"
    )


def against_before(path: str, repeats: int, ref: str) -> None:
    model, prompts = load(path)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", ref, "spinal_callback"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        (Path(folder) / "spinal_callback").rename(Path(folder) / "spinal_before")
        sys.path.insert(0, folder)
        nested = (Path(folder) / "spinal_before" / "probe").is_dir()  # older commits had all modules in one folder
        names = ("probe.probe", "probe.prompts", "config") if nested else ("probe", "prompts", "config")
        probes, sets, settings = [importlib.import_module(f"spinal_before.{name}") for name in names]
        old = probes.Probe(model, sets.PromptSet(prompts.ids, prompts.answers), settings.SpinalConfig())
        new = Probe(model, prompts, SpinalConfig())
        old.read(0)
        new.read(0)
        took = in_turn(repeats, before=lambda: old.read(1), now=lambda: new.read(1))
    middle, times = [statistics.median(t) for t in took.values()], ratio(*took.values())
    print(f"{ref} {middle[0]:.2f} s, now {middle[1]:.2f} s: {times:.2f} times")


# --- in training


def training(path: str, repeats: int) -> None:
    """The quickstart's run, every second step with a probe: each is held against the step before it."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    times: list[float] = []

    class Steps(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(timing.clock())

    files = ROOT / "recipes" / "data" / "preferences.jsonl", SHIPPED
    pairs, probes = (load_dataset("json", data_files=str(file), split="train") for file in files)
    with tempfile.TemporaryDirectory() as folder:
        DPOTrainer(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            args=DPOConfig(
                output_dir=folder,
                max_steps=2 * repeats + 3,
                learning_rate=2e-6,
                per_device_train_batch_size=4,
                max_length=64,
                activation_checkpointing=False,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
                disable_tqdm=True,
                report_to=[],
                save_strategy="no",
            ),
            train_dataset=pairs,
            processing_class=AutoTokenizer.from_pretrained(path),
            callbacks=[Steps(), SpinalCallback(every=2, prompts=probes, sinks=[MemorySink()])],
        ).train()
    took = [b - a for a, b in itertools.pairwise(times)]  # of steps 1, 2, ...: the even ones have a probe
    plain, watched = took[2::2][:repeats], took[3::2][:repeats]
    cost = statistics.median(w / p - 1 for w, p in zip(watched, plain, strict=True))
    print(f"a training step takes {statistics.median(plain):.2f} s, a probe as long as {cost:.2f} steps")
    print(f"{'steps of a run':>16}{'probes, every=auto':>20}{'share':>9}{'every=25':>10}{'share':>9}")
    for steps in (100, 300, 1000, 10_000):
        auto, fixed = _probes(steps, cost), steps // 25 + 1
        shares = [n * cost / (steps + n * cost) for n in (auto, fixed)]
        print(f"{steps:>16}{auto:>20}{shares[0]:>9.2%}{fixed:>10}{shares[1]:>9.2%}")


def _probes(steps: int, cost: float) -> int:
    """How many probes a calm run of the default settings takes, its first and last included."""
    schedule, done = Schedule("auto", SpinalConfig().overhead), 0
    for step in range(steps + 1):
        if step in (0, steps) or schedule.due(step):
            done += 1
            now = Cost(cost, float(step > 0), cost * done)
            schedule.adopt(step, schedule.proposed(now, step, steps))
    return done


# --- on random models


def random_model(layers: int = 8, width: int = 256, vocabulary: int = 32_000, **fields: Any) -> Any:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": vocabulary}
    torch.manual_seed(0)
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "intermediate_size": 3 * width}
    return LlamaForCausalLM(LlamaConfig(**{**heads, **sizes, **fields})).eval()


def random_prompts(count: int, tokens: int = 40) -> PromptSet:
    torch.manual_seed(1)
    return PromptSet(torch.randint(5, 30_000, (count, tokens)).tolist(), [0] * count)


def scaling(repeats: int) -> None:
    def one(count: int = 64, **shape: int) -> str:
        probe = Probe(random_model(**shape), random_prompts(count), SpinalConfig(num_prompts=count))
        probe.read(0)
        took = statistics.median(in_turn(max(repeats // 2, 1), probe=lambda: probe.read(1))["probe"])
        return f"{took:.3f} s, {peak_mib(lambda: probe.read(1)):.0f} MiB"

    print("a probe, and what it takes beyond model and reference; 8 layers of width 256, 64 prompts of 40 tokens,")
    print("a vocabulary of 32,000, unless said")
    print(f"  as said: {one()}")
    for name, values in (("count", (16, 256, 1024)), ("layers", (16, 32)), ("vocabulary", (65_536, 131_072, 262_144))):
        for value in values:
            print(f"  {name} {value}: {one(**{name: value})}", flush=True)


def on_ranks(repeats: int, world: int, cpu_time: bool) -> None:
    """Seconds of a probe on one process and on `world`, one thread each."""
    took = []
    for n in (1, world):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", __file__]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command += ["one-rank", "--repeats", str(repeats), *["--cpu-time"] * cpu_time]
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        took.append(json.loads(out.splitlines()[-1]))
    print(f"one process {took[0]:.2f} s, {world} {took[1]:.2f} s: {took[0] / took[1]:.2f} times", flush=True)


def one_rank(repeats: int) -> None:
    torch.distributed.init_process_group("gloo")
    probe = Probe(random_model(12, 512), random_prompts(64), SpinalConfig(), device=torch.device("cpu"))
    probe.read(0)
    took = statistics.median(in_turn(repeats, probe=lambda: probe.read(1))["probe"])
    slowest = -collectives.least(-round(took * 1e6), torch.device("cpu")) / 1e6
    if collectives.rank() == 0:
        print(json.dumps(slowest))
    torch.distributed.destroy_process_group()


def on_gpu(repeats: int) -> None:
    if not torch.cuda.is_available():
        print("no GPU here: not run")
        return
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = random_model(32, 4096, 128_256, intermediate_size=14_336, num_attention_heads=32, num_key_value_heads=8)
        torch.set_default_dtype(torch.float32)
    for count in (64, 256):
        probe = Probe(model, random_prompts(count, 128), SpinalConfig(num_prompts=count))
        probe.read(0)
        took = in_turn(repeats, probe=functools.partial(probe.read, 1))["probe"]
        print(f"8B Llama shape, {count} prompts of 128 tokens: {statistics.median(took):.3f} s")


def main() -> int:
    parts = ("stages", "naive", "before", "training", "scaling", "ranks", "gpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="which to run; all if left out")
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--before", default="HEAD~1", help="commit to hold the probe against")
    parser.add_argument("--count", type=int, default=64, help="prompts that the naive method is tried with")
    parser.add_argument("--ranks", type=int, default=2, help="processes beside one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cpu_time:
        timing.use_processor_time()
    path = args.model or str(smollm2())
    todo: dict[str, Work] = {
        "stages": lambda: stages(path, args.repeats),
        "naive": lambda: against_naive(path, args.repeats, args.count),
        "before": lambda: against_before(path, args.repeats, args.before),
        "training": lambda: training(path, args.repeats),
        "scaling": lambda: scaling(args.repeats),
        "ranks": lambda: on_ranks(args.repeats, args.ranks, args.cpu_time),
        "gpu": lambda: on_gpu(args.repeats),
        "one-rank": lambda: one_rank(args.repeats),
    }
    for part in args.parts or parts:
        if part not in todo:
            parser.error(f"PART must be one of {', '.join(parts)}, got {part!r}")
        print(f"--- {part}" if part != "one-rank" else "", flush=True)
        todo[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
