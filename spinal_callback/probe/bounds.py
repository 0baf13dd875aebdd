"""What a model's inputs must fit: ids that it has embeddings for, and its number of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """Ids below `vocabulary`, no more than `positions` tokens. None: not known."""

    vocabulary: int | None = None
    positions: int | None = None

    @classmethod
    def of(cls, model: Any) -> Bounds:
        """The rows of the model's embedding, and its positions without those that virtual tokens take."""
        rows = getattr(model.get_input_embeddings(), "num_embeddings", 0)  # the shape of a sharded weight is no guide
        config = model.config.get_text_config()
        virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
        positions = (getattr(config, "max_position_embeddings", None) or 0) - virtual
        return cls(rows if rows > 0 else None, positions if positions > 1 else None)

    def check(self, ids: list[int]) -> None:
        """Raises ValueError for an id that the model has no embedding for: on a GPU it would end the process."""
        wrong = next((i for i in ids if i < 0 or (self.vocabulary is not None and i >= self.vocabulary)), None)
        if wrong is not None:
            known = "ids from 0 on" if self.vocabulary is None else f"the ids 0 to {self.vocabulary - 1}"
            raise ValueError(
                f"has the token id {wrong}, but the model has embeddings for {known} alone:"
                " tokenize with the model's own tokenizer"
            )

    def cut(self, prompt: list[int], answer: list[int], longest: int) -> tuple[list[int], list[int]]:
        """The last `longest` tokens of a prompt, and of its answer as many tokens as there are positions left for."""
        if self.positions is None:
            return prompt[-longest:], answer
        prompt = prompt[-min(longest, self.positions - bool(answer)) :]
        return prompt, answer[: self.positions - len(prompt)]
