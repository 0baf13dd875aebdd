"""What fails on one rank of two. It fails on rank 1: rank 0 writes the trace. Started by `launch.py`."""

import contextlib
import os
import signal

import torch
from transformers import TrainerCallback
from worker import RANK, Seen, dpo, main, run

from spinal_callback import MemorySink
from spinal_callback.distributed import collectives, sharding
from spinal_callback.probe import forward, sampler
from spinal_callback.probe.forward import Forward
from spinal_callback.probe.sampler import Sampler


def patched(owner, name, replacement, folder, callback=None, **arguments):
    """A run in which rank 1's `owner.name` is replaced by `replacement(owner.name)`."""
    real = getattr(owner, name)
    if RANK == 1:
        setattr(owner, name, replacement(real))
    try:
        return run(folder, callback or Seen(), **arguments)
    finally:
        setattr(owner, name, real)


def fails_once(error, when=2):
    """A function whose call number `when` fails; without a word more, that of the second reading."""

    def replacement(real):
        calls = []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) == when:
                raise error
            return real(*args, **kwargs)

        return failing

    return replacement


def fails_after_the_first(callback, error):
    """A function whose first call after the first reading fails."""

    def replacement(real):
        calls = []

        def failing(*args, **kwargs):
            probe = getattr(callback, "probe", None)  # None while training begins
            if probe is not None and probe.reference is not None and not calls:
                calls.append(1)
                raise error
            return real(*args, **kwargs)

        return failing

    return replacement


def tokenizing(folder):
    """Rank 1 cannot tokenize when training begins."""
    callback = Seen(prompts=[f"w{i} w{i + 1}" for i in range(20)])
    trainer = dpo(folder, callback)
    if RANK == 1:
        callback._collect = lambda *args: (_ for _ in ()).throw(OSError("no tokenizer here"))
    try:
        trainer.train()
    except Exception as error:
        return {"raised": repr(error), "step": trainer.state.global_step}


def hook(folder):
    """A hook of the probe finds nothing to keep at layer 3, in the second reading on rank 1."""

    def replacement(real):
        calls = []

        def states(self, *args):
            calls.append(self)
            stack = forward.stack_states
            if calls.count(calls[0]) == 2 and self is calls[0]:
                forward.stack_states = lambda kept: stack([None if i == 2 else h for i, h in enumerate(kept)])
            try:
                return real(self, *args)
            finally:
                forward.stack_states = stack

        return states

    return patched(Forward, "states", replacement, folder)


def in_measures(folder):
    return patched(Sampler, "read_spectra", fails_once(ArithmeticError("no spectrum")), folder)


def in_gradients(folder):
    return patched(sharding, "_squared_norm", fails_once(ArithmeticError("no norm")), folder)


def in_pooling(folder):
    callback = Seen()
    return patched(sampler, "_spread", fails_after_the_first(callback, ArithmeticError("no buffer")), folder, callback)


def at_entry(folder):
    """Rank 1 fails where the second reading begins, before it has run anything."""
    return patched(sampler, "undisturbed", fails_once(ArithmeticError("no entry"), when=3), folder)


def at_exit(folder):
    """Rank 1 fails where the second reading puts the model's state back."""

    def replacement(real):
        calls = []

        @contextlib.contextmanager
        def undisturbed(*args):
            calls.append(1)
            with real(*args):
                yield
            if len(calls) == 3:  # the first was the trial of the longest prompt
                raise ArithmeticError("no exit")

        return undisturbed

    return patched(sampler, "undisturbed", replacement, folder)


def before_a_pass(folder):
    """Rank 1 fails inside a reading, just before both ranks would vote on their inputs."""
    callback = Seen()
    return patched(
        Forward, "_plan_of_rank", fails_after_the_first(callback, ArithmeticError("no plan")), folder, callback
    )


class Alone(TrainerCallback):
    """Gives the callback the beginning of training and nothing more, and keeps what it says to that."""

    said = ""

    def __init__(self, callback):
        self.callback = callback

    def on_train_begin(self, *args, **kwargs):
        try:
            self.callback.on_train_begin(*args, **kwargs)
        except ValueError as error:
            self.said = str(error)


def one_rank(folder):
    """A script that gives the callback to the main process alone."""
    alone = Alone(Seen())
    seconds, collectives.MEETING_SECONDS = collectives.MEETING_SECONDS, 1.0
    try:
        result = run(folder, *([alone] if RANK == 0 else []))
    finally:
        collectives.MEETING_SECONDS = seconds
        collectives._Meetings.count = 1000  # as many on both ranks again
    return result | {"said": alone.said}


def memory_in_forward(folder):
    """The first forward pass of the second reading has too little memory: the batch is halved and it goes on."""
    callback = Seen()
    replacement = fails_after_the_first(callback, torch.OutOfMemoryError("forward"))
    result = patched(Forward, "_run", replacement, folder, callback)
    return result | {"batch": callback.probe.sampler.at_a_time["tokens"]}


def memory_in_lens(folder):
    """The lens of the second reading has too little memory, as a CPU says it: its pieces are halved and it goes on."""
    callback = Seen()
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    result = patched(Sampler, "read_lens", fails_once(error), folder, callback)
    return result | {"block": callback.probe.sampler.at_a_time["logits"]}


def memory_for_good(folder):
    """From the second reading on no lens is small enough."""

    def replacement(real):
        calls = []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) > 1:
                raise torch.OutOfMemoryError("lens")
            return real(*args, **kwargs)

        return failing

    return patched(Sampler, "read_lens", replacement, folder)


def nan_once(real):
    """Hidden states of the prompts with a NaN at layer 5, in the second reading."""
    calls = []

    def states(self, *args, **kwargs):
        calls.append(self)
        h = real(self, *args, **kwargs)
        if calls.count(calls[0]) == 2 and self is calls[0]:
            h[4, 0] = torch.nan
        return h

    return states


def nan(folder):
    return patched(Forward, "states", nan_once, folder)


def stop(folder):
    """The same NaN, and the run is to stop at an error."""
    return patched(Forward, "states", nan_once, folder, Seen(stop_on="error"), max_steps=6)


def sink(folder):
    class Down(MemorySink):
        def write(self, record):
            if record.kind == "reading":
                raise OSError("tracker is down")

    return run(folder, Seen(sinks=[Down()]))


class _FastLog(TrainerCallback):
    """From step 3 on, one rank's rows say that the policy leaves the reference fast; the other's say nothing."""

    def __init__(self, rank):
        self._rank = rank

    def on_log(self, args, state, control, logs=None, **kwargs):
        fast = self._rank == RANK and state.global_step >= 3
        logs |= {"rewards/chosen": 90.0 * fast, "rewards/rejected": 90.0 * fast, "logps/chosen": -10.0}


def fast_log_on_zero(folder):
    return run(folder, _FastLog(0), Seen(every=50), logging_steps=1, max_steps=8)


def fast_log_on_one(folder):
    return run(folder, _FastLog(1), Seen(every=50), logging_steps=1, max_steps=8)


def _refused(folder, **fields):
    trainer = dpo(folder, Seen(**fields))
    try:
        trainer.train()
    except ValueError as error:
        return {"raised": str(error), "step": trainer.state.global_step}


def other_prompts(folder):
    return _refused(folder, prompts=[f"w{i} w{i + 1 + RANK}" for i in range(20)])


def other_config(folder):
    return _refused(folder, every=2 + RANK)


class EndsItself(TrainerCallback):
    """Rank 1 is sent SIGTERM at the end of step 3."""

    def on_step_end(self, args, state, control, **kwargs):
        if RANK == 1 and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def sigterm(folder):
    """Rank 1 is told to end in the middle of training."""
    return run(folder, Seen(every=1), EndsItself())


if __name__ == "__main__":
    main(globals())
