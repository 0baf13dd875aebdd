"""DDP: twins, readings, a run that is killed and resumed. Started by `launch.py`."""

import os
import signal

from transformers import TrainerCallback
from worker import RANK, Norms, Seen, dpo, main, outcome, run

from spinal_callback.probe import forward


def ddp(folder):
    """Six steps of two micro-batches, with and without the callback."""
    arguments, norms = {"max_steps": 6, "gradient_accumulation_steps": 2}, Norms()
    return {
        "plain": run(folder / "plain", **arguments),
        "watched": run(folder / "watched", norms, Seen(), **arguments),
        "norms": norms.seen,
    }


def more_ranks_than_prompts(folder):
    """Rank 1 has no prompt of its own, as where there are more ranks than prompts."""
    dealt = forward.shares
    forward.shares = lambda tokens, world: [list(range(len(tokens))), *([] for _ in range(world - 1))]
    try:
        return run(folder, Seen())
    finally:
        forward.shares = dealt


SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}


class Killed(TrainerCallback):
    """Rank 1 is killed at the end of step 5: the last checkpoint is step 4's."""

    def on_step_end(self, args, state, control, **kwargs):
        if RANK == 1 and state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder):
    return run(folder, Seen(every=1), Killed(), **SAVING)


def resumed(folder):
    """Goes on where `killed` ended, in other processes; and the same run without a kill."""
    callback = Seen(every=1)
    trainer = dpo(folder.parent / "killed", callback, **SAVING)
    trainer.train(resume_from_checkpoint=True)
    return {"resumed": outcome(trainer, callback), "through": run(folder, Seen(every=1), **SAVING)}


if __name__ == "__main__":
    main(globals())
