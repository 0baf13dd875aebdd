"""Checks the data that the project ships, and prints counts and lengths: `python scripts/check_data.py`.

Exit code 1: a fault.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAIRS, PROBES = "recipes/data/preferences.jsonl", "spinal_callback/probe/prompts.jsonl"
LEAST = {PAIRS: 240, PROBES: 64}
ALIKE = 0.75  # share of words (Jaccard) from which two prompts count as the same question
INSULTS = {"idiot", "stupid", "moron", "dumb", "loser", "hell", "damn", "crap", "kill", "hate", "ugly", "fool", "jerk"}


def text(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


def words(string: str) -> list[str]:
    return re.findall(r"[\w']+", string.lower())


def faults(name: str, rows: list[dict[str, Any]]) -> list[str]:
    found = [] if len(rows) >= LEAST[name] else [f"{name}: {len(rows)} rows, at least {LEAST[name]} are wanted"]
    for number, row in enumerate(rows, start=1):
        parts = [text(row[key]) for key in ("prompt", "chosen", "rejected") if key in row]
        if not row.get("topic") or not all(part.strip() for part in parts):
            found.append(f"{name}:{number}: no topic or an empty text")
        if offensive := INSULTS & set(words(" ".join(parts))):
            found.append(f"{name}:{number}: {', '.join(sorted(offensive))}")
    return found


def repeats(prompts: list[str]) -> list[str]:
    bags = [frozenset(words(p)) for p in prompts]
    pairs = ((i, j) for i in range(len(bags)) for j in range(i))
    alike = ((i, j) for i, j in pairs if len(bags[i] & bags[j]) >= ALIKE * len(bags[i] | bags[j]))
    return [f"alike: {prompts[i]!r} and {prompts[j]!r}" for i, j in alike]


def describe(name: str, rows: list[dict[str, Any]]) -> None:
    topics = Counter(row["topic"] for row in rows)
    print(f"{name}: {len(rows)} rows, {len(topics)} topics of {min(topics.values())} to {max(topics.values())}")
    for key in ("prompt", "chosen", "rejected"):
        if key in rows[0]:
            lengths = [len(words(text(row[key]))) for row in rows]
            print(f"  {key:9} words: {min(lengths)} to {max(lengths)}, mean {statistics.mean(lengths):.1f}")


def main() -> int:
    tables = {name: [json.loads(line) for line in (ROOT / name).read_text().splitlines()] for name in LEAST}
    found = repeats([text(row["prompt"]) for rows in tables.values() for row in rows])
    for name, rows in tables.items():
        describe(name, rows)
        found += faults(name, rows)
    for answers in ("chosen", "rejected"):
        given = Counter(text(row[answers]) for row in tables[PAIRS])
        found += [f"{answers} twice: {a!r}" for a, n in given.items() if n > 1]
    print("\n".join(found) or "no faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
