"""Rows for W&B beside those of others: its counter stays where the Trainer and the user leave it."""

from __future__ import annotations

from typing import Any


class WandbRows:
    """Adds our rows to those that others log.

    Each row that is written moves W&B's counter on, and a row that a user logs with `step=state.global_step` is lost
    once the counter is ahead of it. So a row of ours is written with the next one that anybody logs. If nobody has
    logged since our last row, that one is written by itself, as long as the counter stays behind the training step;
    else the new row waits.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # step and row, not yet given to W&B
        self._given: tuple[str, int, int] | None = None  # run, counter and step of the row that W&B will write next

    def log(self, run: Any, row: dict[str, Any], step: int) -> None:
        """Logs a row of a training step. Rows of one step become one; of equal names the later value stays."""
        if not self._waiting and self._given == (run.id, run.step, step):
            run.log(row, commit=False)
        elif self._waiting and self._waiting[-1][0] == step:
            self._waiting[-1][1].update(row)
        else:
            self._waiting.append((step, dict(row)))
            self.give(run, step)

    def give(self, run: Any, step: int) -> None:
        """Gives W&B the rows that wait, as far as its counter stays behind the training step."""
        while self._waiting:
            counter = run.step
            if self._given is not None and self._given[:2] == (run.id, counter):  # nobody has logged since
                if counter + 1 >= step:
                    return
                run.log({}, commit=True)
                counter = run.step
            of_step, row = self._waiting.pop(0)
            run.log(row, commit=False)
            self._given = (run.id, counter, of_step)
