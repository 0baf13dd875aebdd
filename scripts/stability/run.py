"""One DPO run of the suite: `python scripts/stability/run.py --tier small --arm x10-full --seed 0`.

Writes `traces/<tier>/<arm>-s<seed>.jsonl.gz`, the SPINAL trace as the callback gives it (no alerts: rules are replayed
over it), and `<arm>-s<seed>.truth.json`: the held-out measures, and the columns of the Trainer's own log. In the long
tiers also `<arm>-s<seed>.answers.json.gz`: at every reading's step the summed log-likelihood, nats, of the chosen and
the rejected answer of each of `pairs.ANSWERS` pairs that are neither trained on nor part of the ground truth
(`chosen`, `rejected`: a list over pairs for each of `step`), and how many `tokens` of each answer were read.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gzip
import json
import math
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pairs
import torch
from arms import ARMS, EVERY, LONG, TIERS, TINY, Arm, Job, Tier
from datasets import Dataset
from heldout import Answers, HeldOut
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer
from watched import Destabilizer, Recorded

from spinal_callback import MemorySink, SpinalCallback
from spinal_callback.records import Header, Reading, Record, dump_record

HERE = Path(__file__).parent
TRACES = HERE / "traces"
LOGGED = (  # what is kept of the Trainer's log
    *("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "logps/chosen", "logps/rejected"),
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What runs of a tier share; loaded once in a process."""

    tier: Tier
    model: Any
    tokenizer: Any
    label: str
    hh: Path | None = None

    def rows(self, arm: Arm) -> tuple[list[pairs.Row], list[pairs.Row], list[pairs.Row]]:
        """(training, the ground truth's, the recorded answers') rows of an arm; the last are of long tiers only."""
        if arm.hh and self.hh is None:
            raise ValueError(f"{arm.name} trains on HH harmless pairs: give their file with --hh")
        training, held = pairs.harmless(self.hh) if arm.hh and self.hh else pairs.own()
        training, answers = pairs.evaluated(training) if self.tier.long else (training, [])
        return pairs.short(training, self.tokenizer, self.tier.max_length), held, answers


def setting(tier: str, cache: Path, hh: Path | None) -> Setting:
    """Loads the tier's model and tokenizer."""
    if tier in TINY:
        from small import tiny

        return Setting(TIERS[tier], *tiny(tier, cache), label=TINY[tier], hh=hh)
    sys.path.insert(0, str(HERE.parent.parent / "recipes"))
    from smollm2 import smollm2
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2()
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    return Setting(TIERS[tier], model, AutoTokenizer.from_pretrained(path), label=path.name, hh=hh)


@dataclasses.dataclass(frozen=True)
class Told:
    """What a run leaves: the trace's records, the truth, and in long tiers the answers' likelihoods."""

    records: list[Record]
    truth: dict[str, Any]
    answers: dict[str, Any] | None = None


def run(where: Setting, arm: Arm, seed: int, steps: int | None = None) -> Told:
    """Trains. `steps`: end the run earlier, to try it out."""
    began, tier = time.perf_counter(), where.tier
    training, held, kept_answers = where.rows(arm)
    sink, examined = MemorySink(), Recorded(HeldOut(where.tokenizer, held, tier), tier.look)
    answers = Answers(where.tokenizer, kept_answers) if tier.long else None
    answered = [Recorded(answers, EVERY)] if answers else []
    # the prompts are the training data's, as they are by default; but without what an arm does to its rows
    spinal = SpinalCallback(every=EVERY, prompts=Dataset.from_list(training), sinks=[sink])
    with tempfile.TemporaryDirectory() as folder:
        args = _config(folder, tier, arm, seed, steps or tier.steps)
        rows = pairs.script(training, arm, tier, seed)[: args.max_steps * tier.batch]
        trainer = DPOTrainer(
            copy.deepcopy(where.model),
            ref_model=None if arm.lora else copy.deepcopy(where.model),
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=where.tokenizer,
            peft_config=_adapters(seed) if arm.lora else None,
            callbacks=[spinal, examined, *answered, Destabilizer(arm, tier, seed)],
        )
        kept: Any = trainer.train_dataset
        if len(kept) != len(rows):  # or "from a step on" would be another step
            raise RuntimeError(f"the trainer dropped {len(rows) - len(kept)} rows")
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    columns = {"step": [row["step"] for row in log], **{key: [row.get(key) for row in log] for key in LOGGED}}
    truth = {"tier": tier.name, "arm": arm.name, "seed": seed, "heldout": examined.columns, "log": columns}
    if tier.long:
        truth["onset"] = None if arm.healthy else arm.onset(tier, seed)
    told = answered[0].columns | {"tokens": answers.tokens} if answers else None
    truth["seconds"] = time.perf_counter() - began
    return Told(_kept(sink.records, where.label, args.max_steps), truth, told)


SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def _config(folder: str, tier: Tier, arm: Arm, seed: int, steps: int) -> DPOConfig:
    return DPOConfig(
        output_dir=folder,
        max_steps=steps,
        learning_rate=(tier.lora if arm.lora else tier.full) * arm.rate,
        beta=arm.beta,
        lr_scheduler_type=SCHEDULES[arm.schedule],
        warmup_steps=arm.warmup,
        per_device_train_batch_size=tier.batch,
        max_length=tier.max_length,
        train_sampling_strategy="sequential",  # the script's order is the run's
        seed=seed,
        activation_checkpointing=False,
        bf16=tier.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


def _adapters(seed: int) -> Any:
    from peft import LoraConfig

    torch.manual_seed(seed)  # TRL makes the adapters before it sets the run's seed
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def _kept(records: list[Record], label: str, steps: int) -> list[Record]:
    """Header and readings, without this machine's folders. Raises RuntimeError if a reading is missing."""
    kept = [r for r in records if isinstance(r, Header | Reading)]
    missing = set(range(0, steps + 1, EVERY)) - {r.step for r in kept if isinstance(r, Reading)}
    if missing:
        raise RuntimeError(f"no reading at the steps {sorted(missing)}: {records[-1]}")
    return [dataclasses.replace(r, model=label) if isinstance(r, Header) else r for r in kept]


# --- files


def written(tier: str, name: str) -> tuple[Path, Path, Path]:
    """Where a run's trace, truth and answers are."""
    folder = TRACES / tier
    return folder / f"{name}.jsonl.gz", folder / f"{name}.truth.json", folder / f"{name}.answers.json.gz"


def write(job: Job, told: Told) -> None:
    """The files, each whole or not at all, the truth last: where it is, the run is done."""
    trace, truth, answers = written(job.tier, job.name)
    trace.parent.mkdir(parents=True, exist_ok=True)
    digits = 5 if TIERS[job.tier].long else 6
    _replace(trace, _packed([json.loads(dump_record(record)) for record in told.records], digits))
    if told.answers is not None:
        _replace(answers, _packed([told.answers], 6))
    _replace(truth, (_line(told.truth, 5)).encode())


def _packed(values: list[Any], digits: int) -> bytes:
    """A line of JSON each, gzipped to the same bytes for the same run."""
    return gzip.compress("".join(_line(value, digits) for value in values).encode(), mtime=0)


def _line(value: Any, digits: int) -> str:
    return json.dumps(rounded(value, digits), separators=(",", ":")) + "\n"


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)


def rounded(value: Any, digits: int = 6) -> Any:
    """Floats to so many significant digits; those that are not finite as null."""
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def quiet() -> None:
    """Suite runs are many: warnings of libraries on every one of them help nobody."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    import datasets

    datasets.disable_progress_bars()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    parser.add_argument("--arm", choices=[arm.name for arm in (*ARMS, *LONG)], required=True, metavar="ARM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="try it out: end early, print the measures, write nothing")
    parser.add_argument("--hh", type=Path, help="harmless-base-test.jsonl.gz of HH-RLHF")
    parser.add_argument("--cache", type=Path, default=Path("runs/stability"), help="where the small model is kept")
    args = parser.parse_args()
    quiet()
    (arm,) = (arm for arm in (*ARMS, *LONG) if arm.name == args.arm)
    told = run(setting(args.tier, args.cache, args.hh), arm, args.seed, args.steps)
    if args.steps is None:
        write(Job(args.tier, arm, args.seed), told)
    print(json.dumps(rounded(told.truth["heldout"], 4)), f"{told.truth['seconds']:.0f} s")


if __name__ == "__main__":
    main()
