"""The commands that read checkpoints: `spinal audit`, `spinal compare`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..auditing.effects import AT_LEAST, CHANGED, INSUFFICIENT, NEGLIGIBLE
from ..files import STANDARD_OUTPUT, free, save
from ..records import Record, dump_record
from .output import is_first_rank, say
from .settings import add_settings, at_least, given
from .trace import files_of

CHECKPOINT = "a model's folder, a hub id, a GGUF file, or an adapter's folder"

EXIT_CODES = {CHANGED: 1, NEGLIGIBLE: 0, INSUFFICIENT: 3}


def add(commands: Any) -> None:
    """Adds these commands to the parser of `spinal`."""
    audit = commands.add_parser(
        "audit",
        help="read a checkpoint and its base, or all checkpoints of a run, layer by layer",
        description="Measures a checkpoint against its base, or all checkpoints of a run against its start, layer by"
        " layer; prints what changed and writes a trace. Exit code 1 if a run's checkpoints raise alerts; of a"
        " checkpoint with --base that of spinal compare.",
    )
    audit.add_argument("model", metavar="MODEL", help=f"{CHECKPOINT}; or a run's folder, with checkpoint-N in it")
    audit.add_argument(
        "--base",
        help="the model to compare with; default: of an adapter its own base model, of a run the model that its trace"
        " names, otherwise none",
    )
    audit.add_argument("--adapter", help="a PEFT adapter to add to MODEL: a folder or a hub id")
    audit.add_argument(
        "-o", "--output", default="audit.jsonl", help="the trace to write, for spinal report (default: audit.jsonl)"
    )
    audit.add_argument(
        "--pairs",
        help="a file or a data set of rows with chosen and rejected answers, for gradient concentration, the third term"
        " of the score (default: it is not measured)",
    )
    audit.add_argument(
        "--num-pairs", type=int, default=32, metavar="N", help="use at most this many pairs (default: 32)"
    )
    audit.add_argument("--beta", type=float, default=0.1, help="of the DPO loss over the pairs (default: 0.1)")
    audit.add_argument("--force", action="store_true", help="replace the output file if it exists")
    _add_prompt_arguments(audit)
    audit.set_defaults(run=_audit, on_all_ranks=True)
    compare = commands.add_parser(
        "compare",
        help="tell which layers differ between two checkpoints, or between two saved traces",
        description="Compares two checkpoints prompt by prompt, or two saved traces by their last readings, and tells"
        " which layers differ. Exit code 1 if more than --at-least changed, 0 if less, 3 if these prompts cannot say.",
    )
    compare.add_argument("a", metavar="A", help=f"{CHECKPOINT}; or a saved trace: a .jsonl file or a run's folder")
    compare.add_argument("b", metavar="B", help="what to compare with A: a checkpoint, or a trace if A is one")
    _add_prompt_arguments(compare)
    compare.set_defaults(run=_compare, on_all_ranks=True)


def _add_prompt_arguments(command: Any) -> None:
    command.add_argument(
        "--prompts",
        help="a .jsonl, .json or .txt file, or a data set, with prompt or messages columns"
        " (default: the 64 bundled prompts)",
    )
    command.add_argument(
        "--device-map",
        default="auto",
        metavar="MAP",
        help="where a model's weights go: auto (default), cpu, cuda:1, ...; as transformers takes it",
    )
    command.add_argument(
        "--at-least",
        type=at_least,
        metavar="NAME=SIZE,...",
        help="the least changes that matter; default: " + ",".join(f"{n}={v:g}" for n, v in AT_LEAST.items()),
    )
    command.add_argument("--json", action="store_true", help="print all results as JSON")
    add_settings(command)


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    return {"prompts": args.prompts, "at_least": args.at_least, "device_map": args.device_map, **given(args)}


def _audit(args: argparse.Namespace) -> int:
    # before the models are loaded, which takes long
    output = free(args.output, args.force, files_of([args.model, args.base, args.adapter, args.prompts, args.pairs]))
    if args.json and output == STANDARD_OUTPUT:
        raise ValueError("--json and -o - both print on standard output: give one of them")
    from ..auditing.audit import audit  # torch and transformers take seconds: the other commands do without

    pairs = {"pairs": args.pairs, "num_pairs": args.num_pairs, "beta": args.beta}
    found = audit(args.model, args.base, adapter=args.adapter, **pairs, **_arguments(args))
    if is_first_rank():
        records: list[Record] = [found.trace.header, *found.readings, *found.alerts]
        save(output, "".join(dump_record(record) + "\n" for record in records))
        if args.json:
            say(json.dumps(found.to_json()))
        else:
            say(found, beside=output)
            if output.is_file():
                say(f"\ntrace    {output}\nnext     spinal report {output} -o {output.with_suffix('.html')}")
    a_pair = [reading.step for reading in found.readings] == [0, 1]  # a run's have the steps of its checkpoints
    return EXIT_CODES[found.verdict] if args.base and a_pair else int(bool(found.alerts))


def _compare(args: argparse.Namespace) -> int:
    from ..auditing.compare import compare  # scipy

    found = compare(args.a, args.b, **_arguments(args))
    if is_first_rank():
        say(json.dumps(found.to_json()) if args.json else found)
    return EXIT_CODES[found.verdict]
