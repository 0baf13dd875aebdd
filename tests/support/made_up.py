"""Made-up runs for the alert rules: readings whose late trace follows a given course."""

import math

from builders import alert, header, reading, write

from spinal_callback.traces import Trace

START = {"alpha": 0.8, "transport": 1.2}


def flat(step):
    """A run that does not move."""
    return 0.0


def run(every=5, steps=100, alpha=flat, transport=flat, noise=0.002, fields=None, **others):
    """Readings of a run; `alpha` and `transport` give the late changes at a step, in shares; `others`, and
    those in `fields`, are functions of the step that give other fields."""
    readings = []
    for step in range(0, steps + 1, every):
        a, t = alpha(step) * START["alpha"], transport(step) * START["transport"]
        errors = {f"{name}_se": noise * value for name, value in START.items()}
        readings.append(
            reading(
                step,
                late={"alpha": START["alpha"] + a, "transport": START["transport"] + t},
                delta={"alpha": a, "transport": t, **errors},
                **{"localization": 0.9, **{name: course(step) for name, course in (others | (fields or {})).items()}},
            )
        )
    return readings


def trace(*args, **kwargs):
    return Trace(header(), run(*args, **kwargs))


def drifting(slope=0.002, steps=100, **fields):
    """Readings in which contraction of all layers climbs with the steps, so that every chart has something to show."""
    late = run(10, steps, alpha=lambda step: slope * step)
    return [reading(**{**vars(r), "alpha": [math.nan, 0.7 + slope * r.step, 0.8, 0.9], **fields}) for r in late]


def healthy_runs(folder, count=5, **courses):
    """Output folders of as many runs as `spinal calibrate` asks for; they differ in a number that no rule looks at."""
    for i in range(count):
        readings = run(score=lambda step, i=i: float(i), **courses)
        write(folder, header(), *readings, name=f"run{i}/_spinal/trace.jsonl")
    return [str(folder / f"run{i}") for i in range(count)]


EVIL = "</script><img src=x onerror=\"document.title='hacked'\"><!--data-->&amp;$1\\1"


def hostile():
    bad = alert(10, message=EVIL, action=EVIL, rule=EVIL, level=EVIL, last_good=EVIL)
    first, last = reading(0, trainer={EVIL: 1.0}), reading(10)
    return Trace(header(model=EVIL, version=EVIL, probe=EVIL, config={EVIL: EVIL}), [first, last], [bad])
