"""The commands that read checkpoints: `spinal audit`, `spinal compare`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..files import free, save
from ..records import Record, dump_record


def add(commands: Any) -> None:
    """Puts these commands into the parser of `spinal`."""
    audit = commands.add_parser("audit", help="the depth trace of a checkpoint against its base, or of a whole run")
    audit.add_argument(
        "model", help="a folder, a hub id, a GGUF file, an adapter's folder; or a run's, which has checkpoint-N in it"
    )
    audit.add_argument("--base", help="what to hold it against; for an adapter, if left out, the policy without it")
    audit.add_argument("--adapter", help="a PEFT adapter to put on the model: a folder or a hub id")
    audit.add_argument(
        "-o", "--output", default="audit.jsonl", help="the trace to write, for spinal report (default: audit.jsonl)"
    )
    audit.add_argument("--force", action="store_true", help="replace the output file if it is there")
    _how(audit)
    audit.set_defaults(run=_audit)
    compare = commands.add_parser("compare", help="which layers of two checkpoints, or of two saved traces, differ")
    compare.add_argument("a", help="a checkpoint, as for audit; or a saved trace")
    compare.add_argument("b", help="what to hold against it")
    _how(compare)
    compare.set_defaults(run=_compare)


def _how(command: Any) -> None:
    command.add_argument(
        "--prompts", help=".jsonl, .json or .txt file, or data set, with prompt or messages; 64 of ours if left out"
    )
    command.add_argument("--num-prompts", type=int, default=64, help="at most this many of them (default: 64)")
    command.add_argument("--max-prompt-tokens", type=int, default=256, help="longer ones lose their first tokens")
    command.add_argument("--json", action="store_true", help="all that was found as JSON")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "prompts": args.prompts,
        "num_prompts": args.num_prompts,
        "max_prompt_tokens": args.max_prompt_tokens,
    }


def _audit(args: argparse.Namespace) -> int:
    output = free(args.output, args.force)  # before the models are loaded, which takes long
    from ..auditing.audit import audit  # torch and transformers take seconds: the other commands do without
    from ..distributed.collectives import rank

    found = audit(args.model, args.base, adapter=args.adapter, **_settings(args))
    if rank() == 0:
        records: list[Record] = [found.trace.header, *found.readings, *found.alerts]
        save(output, "".join(dump_record(record) + "\n" for record in records))
        if args.json:
            print(json.dumps(found.to_json()))
        else:
            print(found)
            print(f"\ntrace    {output}\nnext     spinal report {output} -o {output.with_suffix('.html')}")
    return 1 if found.alerts else 0


def _compare(args: argparse.Namespace) -> int:
    from ..auditing.compare import compare
    from ..distributed.collectives import rank

    found = compare(args.a, args.b, **_settings(args))
    if rank() == 0:
        print(json.dumps(found.to_json()) if args.json else found)
    return 1 if found.different else 0
