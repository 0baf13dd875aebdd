"""Damage to JSON: every kind of value in every place of a record."""

import itertools
import json

from builders import alert, header, notice, reading

from spinal_callback.records import dump_record

RECORDS = [json.loads(dump_record(r)) for r in (header(), reading(0), reading(10), alert(10), notice(10))]
RECORDS[1]["trainer"] = {"loss": 0.7}
GONE = object()
# as text, since JSON has more than Python's json writes: numbers beyond 1e308, more digits than Python reads, brackets
VALUES = {
    "gone": GONE,
    "null": "null",
    "true": "true",
    "minus": "-1",
    "half": "0.5",
    "great": "1e308",
    "infinite": "1e400",
    "nan": "NaN",
    "wide": "1" * 30,
    "digits": "1" * 5000,
    "text": '"x"',
    "escape": '"\\u001b]0;x\\u0007\\r\\n\\ud800"',
    "empty": "[]",
    "list": "[null, 1]",
    "object": '{"a": 1}',
    "brackets": "[" * 100_000 + "]" * 100_000,
}
MARK = "@damage@"


def paths(value, path=()):
    """Every place in a JSON value; of a list the list itself and its last element."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[-1:] if isinstance(value, list) else ()
    for key, element in inner:
        yield from paths(element, (*path, key))


def damaged(record, path, value):
    """The record as a line, with another value at `path`, or nothing."""
    copy = json.loads(json.dumps(record))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = MARK
    return json.dumps(copy).replace(f'"{MARK}"', "" if value is GONE else value)


def all_damage():
    """(what was done, the trace's lines): one value at one place of one record."""
    whole = [json.dumps(record) for record in RECORDS]
    for number, record in enumerate(RECORDS):
        for path, (name, value) in itertools.product(paths(record), VALUES.items()):
            line = damaged(record, path, value)
            yield f"{record['kind']} {path} {name}", [*whole[:number], line, *whole[number + 1 :]]
