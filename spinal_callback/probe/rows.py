"""One row of a data set as token ids: its prompt, chosen and rejected answer. `KINDS` lists every form that is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

IGNORED = -100  # the label of a token that is not trained on: one of the prompt


@dataclass(frozen=True)
class Row:
    """Token ids. An answer that the row does not have is empty."""

    prompt: list[int]
    chosen: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)


class EmptyPromptError(ValueError):
    """A row whose prompt has no tokens: training passes over it."""


def read_row(row: Any, tokenizer: Any, template: Mapping[str, Any] | None = None) -> Row:
    """The token ids of one row. Those of a row of text are the ones that TRL's DPOTrainer makes of it.

    Args:
        row: a string, chat messages, or a mapping that has the columns of one of `KINDS`. A column whose value is None
            counts as missing.
        tokenizer: a transformers tokenizer, or a processor: then the text of a row that also has images is read.
            Tokenized rows need none.
        template: arguments of the trainer for the chat template; a row's own come first.

    Raises:
        EmptyPromptError: the prompt is empty.
        ValueError: another type of row, other columns, ids that are no numbers, text without a tokenizer, messages
            without a chat template, or messages that the template does not accept. The message continues the name of
            the row.
    """
    if isinstance(row, str) or is_chat(row):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"must be a string, chat messages or a row, got {type(row).__name__}")
    row = {name: value for name, value in row.items() if value is not None}
    if template:
        row["chat_template_kwargs"] = {**template, **row.get("chat_template_kwargs", {})}
    for columns, read in KINDS:
        if all(name in row for name in columns):
            found = read(row, tokenizer)
            if not found.prompt:
                raise EmptyPromptError("is empty: every prompt needs at least one token")
            return found
    known = ", ".join(" and ".join(columns) for columns, _ in KINDS)
    raise ValueError(f"has the columns {', '.join(map(repr, row))}; one of {known} is needed")


def is_chat(value: Any) -> bool:
    """Whether `value` is a conversation: a list of messages, each with a role."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


# --- rows of token ids


def _parts(row: Mapping[str, Any], _: Any) -> Row:
    """Prompt and answers in columns of their own, as TRL's preference trainers tokenize."""
    names = (
        ("prompt_ids", "prompt_input_ids"),
        ("chosen_ids", "chosen_input_ids", "completion_ids", "answer_input_ids"),
        ("rejected_ids", "rejected_input_ids"),
    )
    return Row(*(_ids(next((row[name] for name in part if name in row), [])) for part in names))


def _pair(row: Mapping[str, Any], _: Any) -> Row:
    """Prompt and answer in one column, told apart by the labels, as LLaMA-Factory and ms-swift tokenize."""
    chosen, rejected = (
        _split(
            _ids(row.get(f"{name}_input_ids", [])), [label != IGNORED for label in _ids(row.get(f"{name}_labels", []))]
        )
        for name in ("chosen", "rejected")
    )
    return Row(*chosen, rejected[1])


def _sequence(row: Mapping[str, Any], _: Any) -> Row:
    """A language-modelling row: the answer is what its masks or labels train on; without them, all of it is prompt."""
    ids = _ids(row["input_ids"])
    ids = ids[: next(iter(row.get("seq_lengths", [])), None)]  # packed: several texts in a row; the first of them
    masks = [_ids(row[name]) for name in ("completion_mask", "assistant_masks") if name in row]
    trained = masks[0] if masks else [label != IGNORED for label in _ids(row.get("labels", []))]
    return Row(*_split(ids, trained))


def _split(ids: list[int], trained: Iterable[Any]) -> tuple[list[int], list[int]]:
    """Before and from the first token that is trained on. All is prompt where that is the first token, or none."""
    start = next((i for i, on in enumerate(trained) if on), 0) or len(ids)
    return ids[:start], ids[start:]


def _ids(values: Iterable[Any]) -> list[int]:
    """Whole numbers; a data set may be formatted to give tensors or arrays.

    Raises:
        ValueError: something else.
    """
    try:
        found = [(int(value), value) for value in values]
    except (TypeError, ValueError):
        found = [(0, None)]
    if any(number != value for number, value in found):
        raise ValueError("has token ids that are no list of whole numbers")
    return [number for number, _ in found]


# --- rows of text


def _preference(row: Mapping[str, Any], tokenizer: Any) -> Row:
    """TRL's preference formats. The prompt is implicit where it is what both conversations begin with."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    _check(chosen=chosen, rejected=rejected)
    if prompt is None or (is_chat(chosen) and is_chat(rejected) and not is_chat(prompt)):
        start = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:start], chosen[start:], rejected[start:]
    return _encoded(row, tokenizer, prompt, chosen, rejected)


def _shared(a: Any, b: Any) -> int:
    """How many messages or characters at the start of two answers are their prompt; it does not end with a space."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)) - 1)
    return start - 1 if start > 0 and a[start - 1] == " " else start


def _completion(row: Mapping[str, Any], tokenizer: Any) -> Row:
    """A prompt, and one answer if there is one."""
    _check(prompt=row["prompt"])
    return _encoded(row, tokenizer, row["prompt"], row.get("chosen") or row.get("completion"))


def _conversation(row: Mapping[str, Any], tokenizer: Any) -> Row:
    """Messages: the answer is the assistant's last one, if they end with it."""
    _check(messages=row["messages"])
    messages = list(row["messages"])
    end = len(messages) - (len(messages) > 1 and messages[-1].get("role") == "assistant")
    return _encoded(row, tokenizer, messages[:end], messages[end:])


def _text(row: Mapping[str, Any], tokenizer: Any) -> Row:
    return _encoded(row, tokenizer, row["text"])


def _encoded(row: Mapping[str, Any], tokenizer: Any, prompt: Any, chosen: Any = None, rejected: Any = None) -> Row:
    """As TRL does: prompt and answer are tokenized together; the prompt ends where that differs from it alone."""
    if not prompt:
        return Row([])
    _check(prompt=prompt)
    if tokenizer is None:
        raise ValueError("is text, but the trainer has no processing_class (tokenizer) to read it")
    encode = _chat_encoder(row, tokenizer) if is_chat(prompt) else _plain_encoder(tokenizer)
    alone = encode(prompt, None)
    wholes = [encode(prompt, answer) if answer else [] for answer in (chosen, rejected)]
    start = min([len(alone), *(_common(alone, whole) for whole in wholes if whole)])
    return Row(alone[:start], *(whole[start:] for whole in wholes))


def _check(**parts: Any) -> None:
    for name, value in parts.items():
        if not isinstance(value, str) and not is_chat(value) and value != []:
            raise ValueError(f"has {name} of type {type(value).__name__}: it must be a string or chat messages")


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _plain_encoder(tokenizer: Any) -> Callable[[str, Any], list[int]]:
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    end = getattr(inner, "eos_token", None) or ""

    def encode(prompt: str, answer: Any) -> list[int]:
        if answer:
            answer = answer[-1]["content"] if is_chat(answer) else answer
            prompt += answer if answer.endswith(end) else answer + end
            return list(inner(prompt)["input_ids"])
        ids = list(inner(prompt)["input_ids"])
        # some tokenizers end every text (`add_eos_token`), but in training an answer follows the prompt
        ended = len(ids) > 1 and ids[-1] == getattr(inner, "eos_token_id", None) and not (end and prompt.endswith(end))
        return ids[:-1] if ended else ids

    return encode


def _chat_encoder(row: Mapping[str, Any], tokenizer: Any) -> Callable[[Any, Any], list[int]]:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ValueError(
            "is a list of chat messages, but the tokenizer has no chat template:"
            " give plain strings or set tokenizer.chat_template"
        )
    tools, inner = row.get("tools"), getattr(tokenizer, "tokenizer", tokenizer)
    options = {"chat_template": template, "tools": json.loads(tools) if isinstance(tools, str) else tools}
    options |= row.get("chat_template_kwargs", {})

    def encode(prompt: Any, answer: Any) -> list[int]:
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        messages = [_text_only(m, as_parts=inner is not tokenizer) for m in [*prompt, *(answer or [])]]
        try:
            found = inner.apply_chat_template(
                messages, tokenize=True, return_dict=True, add_generation_prompt=not answer, **options
            )
        except Exception as error:
            raise ValueError(f"is not what the chat template takes: {error}") from error
        return list(found["input_ids"])

    return encode


def _text_only(message: dict[str, Any], as_parts: bool) -> dict[str, Any]:
    """A message without its images. `content` becomes a list of text parts, as processors take it, or a string."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
    else:
        texts = [content] if content else []
    if as_parts:
        return {**message, "content": [{"type": "text", "text": text} for text in texts]}
    return {**message, "content": "".join(texts)} if isinstance(content, list) else message


Reader = Callable[[Mapping[str, Any], Any], Row]
KINDS: tuple[tuple[tuple[str, ...], Reader], ...] = (  # the first whose columns are all there
    (("chosen_input_ids", "chosen_labels"), _pair),
    (("prompt_ids",), _parts),
    (("prompt_input_ids",), _parts),
    (("chosen", "rejected"), _preference),
    (("prompt",), _completion),
    (("messages",), _conversation),
    (("text",), _text),
    (("input_ids",), _sequence),
)
