"""A checkpoint against its base, adapters, and what cannot be compared; numbers by the naive reference."""

import io
import json
import math

import numpy as np
import pytest
import reference
import saved
import tiny
import torch

from spinal_callback import SpinalConfig, audit, compare
from spinal_callback.auditing import reader
from spinal_callback.probe import sampler
from spinal_callback.probe.prompts import PromptSet

LATE = (7, 9)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


def naive(model, ids):
    """The naive reference's alphas `[L]` and transports `[L - 1, N]`."""
    seen = reference.reference_trace(model, ids, *saved.PARTS)
    return [reference.tail_exponent(h, eps=1.2e-7)[0] for h in seen["h"]], reference.transport(seen["z"]), seen["z"]


# --- a checkpoint and its base


@pytest.fixture(scope="module")
def pair(place):
    return saved.read(place, "new", "base")


def test_the_numbers_are_the_references(place, pair):
    ids = saved.token_ids(place / "prompts.jsonl")
    (alpha0, moves0, z0), (alpha, moves, z) = naive(tiny.llama(), ids), naive(saved.aligned(), ids)
    before, after = pair.readings
    assert (before.step, after.step) == (0, 1)
    assert before.alpha == pytest.approx(alpha0, rel=1e-4) and after.alpha == pytest.approx(alpha, rel=1e-4)
    assert after.transport == pytest.approx(moves.mean(1), abs=1e-5)
    assert after.displacement == pytest.approx(reference.displacement(z[-1], z0[-1]).mean(), abs=1e-5)
    late, late0 = (reference.late_means(a, m.mean(1), *LATE) for a, m in ((alpha, moves), (alpha0, moves0)))
    align = reference.delta_align(late[0], late0[0], late[1], late0[1])
    assert after.delta_align == pytest.approx(align, abs=1e-4)
    assert pair.score == pytest.approx(align + reference.coherence(alpha, moves.mean(1), *LATE), abs=1e-4)
    assert math.isnan(after.score) and math.isnan(after.gradient_concentration)


def test_change_is_found_where_it_was_made(pair):
    (changes,) = pair.changes
    assert set(changes.layers) <= {7, 8, 9} and changes.layers
    assert all(c.change == 0 for c in changes.alpha[:6])
    assert 7 <= changes.first.low <= changes.first.layer <= changes.last.layer <= changes.last.high <= 9


def test_it_is_a_trace_that_says_what_it_is(pair, tmp_path):
    header = pair.trace.header
    assert (header.model, header.checkpoints, header.prompts) == ("new", ["base", "new"], 40)
    assert len(pair.to_pandas()) == 2 and "late_alpha" in pair.to_pandas()
    layers = pair.changes[0].to_pandas()
    assert layers.index.tolist() == list(range(1, 10)) and layers.index.name == "layer"
    assert layers["alpha_significant"].sum() + layers["transport_significant"].sum() > 0
    assert "<iframe" in pair._repr_html_() and "new against base" in str(pair)
    assert json.loads(json.dumps(pair.to_json(), allow_nan=False))["changes"][0]["layers"] == pair.changes[0].layers


def test_a_checkpoint_alone_has_no_change_and_no_score(place):
    found = saved.read(place, "base")
    assert [r.step for r in found.readings] == [0] and found.changes == [] and math.isnan(found.score)
    assert "no base, no score" in str(found)


def test_the_projects_own_prompts(place):
    """Words that the tokenizer does not know make few different prompts: enough are asked for."""
    with pytest.raises(ValueError, match="prompts has only 9 different prompts: give at least 10"):
        audit(place / "base")
    found = audit(place / "base", prompts=[f"w{i} w{i + 1}" for i in range(20)])
    assert found.readings[0].prompts == 20


def test_the_chat_template_is_that_of_the_model(place):
    ids = saved.token_ids(place / "prompts.jsonl")
    assert saved.read(place, "base").trace.header.probe == PromptSet(ids, [0] * len(ids)).hash


def test_settings(place):
    found = saved.read(place, "base", num_prompts=24, window=(2, 4))
    assert found.readings[0].prompts == 24 and found.trace.header.window == (2, 4)
    with pytest.raises(ValueError, match="give config or its fields, not both: config and num_prompts"):
        saved.read(place, "base", config=SpinalConfig(), num_prompts=24)


def test_more_prompts_than_a_group_are_fitted_in_groups(place):
    """`group=None`: the one fit to all prompts, whose level is another."""
    found = saved.read(place, "base", group=10)
    ids = saved.token_ids(place / "prompts.jsonl")
    h = reference.reference_trace(tiny.llama(), ids, *saved.PARTS)["h"]
    want = [reference.grouped_exponent(layer, 10, eps=1.2e-7) for layer in h]
    assert found.readings[0].alpha == pytest.approx([alpha for alpha, _ in want], rel=1e-4)
    assert found.readings[0].alpha_se == pytest.approx([error for _, error in want], rel=1e-3)
    assert saved.read(place, "base").trace.header.config["group"] == 64
    whole = saved.read(place, "base", group=None)
    assert whole.trace.header.config["group"] is None
    assert whole.readings[0].late["alpha"] > found.readings[0].late["alpha"]


def test_a_setting_of_training_alone_is_refused(place):
    words = r"every is a setting of training, which has no effect here \(got every=5\); the settings are num_prompts, "
    with pytest.raises(ValueError, match=words):
        saved.read(place, "base", every=5)
    with pytest.raises(ValueError, match=words):
        compare(place / "base", place / "new", every=5)


PAIRS = [{"prompt": f"w{i}", "chosen": f" w{i + 1}", "rejected": f" w{i + 2}"} for i in range(3)]


@pytest.mark.parametrize(
    ("fields", "count", "unit"),
    [({}, 60, "prompt"), ({"position": "prompt"}, 60, "prompt"), ({"pairs": PAIRS}, 60 + 2 * 6, "text")],
    ids=["prompts", "every token", "answers too"],
)
def test_the_progress_bar_counts_each_text_of_each_model_once(place, monkeypatch, fields, count, unit):
    """Not what is run besides: the check of the lens, the check of the common beginning, that beginning itself."""
    bars = []

    class Bar(reader.tqdm):
        def __init__(self, *args, **fields):
            self.steps = []
            super().__init__(*args, **fields)
            bars.append(self)

        def update(self, n=1):
            super().update(n)
            self.steps.append(self.n)

        def close(self):
            self.shown = self.n
            super().close()

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sampler, "PIECE_LIMIT", 1)  # every token: prompt by prompt
    monkeypatch.setattr(reader, "tqdm", Bar)
    monkeypatch.setattr("sys.stderr", Terminal())
    saved.read(place, "adapter", num_prompts=30, **fields)
    (bar,) = bars
    assert bar.steps == sorted(bar.steps)  # it never goes back
    assert (bar.total, bar.shown, bar.unit) == (count, count, unit)


# --- adapters


def test_an_adapter_is_held_against_the_policy_without_it(place):
    found = saved.read(place, "adapter")
    assert found.readings[0].alpha == saved.read(place, "base").readings[0].alpha
    assert found.names == [f"{place / 'base'} (without the adapter)", "adapter"]
    assert found.readings[1].displacement > 0.05
    assert [c.change for c in found.changes[0].alpha] == [
        pytest.approx(b - a) for a, b in zip(found.readings[0].alpha, found.readings[1].alpha, strict=True)
    ]


def test_an_adapter_given_beside_its_model(place):
    one = audit(place / "base", prompts=place / "prompts.jsonl", adapter=place / "adapter")
    assert [r.alpha for r in one.readings] == [r.alpha for r in saved.read(place, "adapter").readings]


def test_an_adapter_against_another_base(place):
    found = saved.read(place, "adapter", "new")
    assert found.names == ["new", "adapter"]
    assert found.readings[0].alpha == saved.read(place, "new").readings[0].alpha


def test_a_users_own_adapter_is_held_against_where_it_began(place, tmp_path):
    saved.adapter(tmp_path / "adapter", place / "base")
    saved.adapter(tmp_path / "adapter" / "ref", place / "base", seed=1)
    saved.adapter(tmp_path / "began", place / "base", seed=1)
    began = audit(tmp_path / "began", prompts=place / "prompts.jsonl").readings[1]
    assert audit(tmp_path / "adapter", prompts=place / "prompts.jsonl").readings[0].alpha == began.alpha


# --- what cannot be compared


def test_other_depths(place, tmp_path):
    saved.policy(tmp_path / "deep", tiny.llama(layers=12))
    with pytest.raises(ValueError, match="deep has 12 layers and base has 9: only equal depths can be compared"):
        audit(tmp_path / "deep", place / "base", place / "prompts.jsonl")


def test_other_tokenizers(place, tmp_path):
    saved.policy(tmp_path / "other")
    words = (
        (tmp_path / "other" / "tokenizer.json")
        .read_text()
        .replace('"w1": 9', '"w1": 10')
        .replace('"w2": 10', '"w2": 9')
    )
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    with pytest.raises(ValueError, match="other and base have different tokenizers: their layers cannot be compared"):
        audit(tmp_path / "other", place / "base", place / "prompts.jsonl")


def test_no_tokenizer_anywhere(tmp_path, place):
    saved.policy(tmp_path / "bare", tokenizer=False)
    with pytest.raises(ValueError, match=r"^bare has no tokenizer; save one in its folder"):
        audit(tmp_path / "bare", prompts=["w1"])
    saved.policy(tmp_path / "empty", tokenizer=False)
    with pytest.raises(ValueError, match="neither bare nor its base has a tokenizer; save one in its folder"):
        audit(tmp_path / "bare", tmp_path / "empty", prompts=["w1"])
    found = audit(tmp_path / "bare", place / "base", place / "prompts.jsonl")  # the base's
    assert found.changes[0].layers == []


def test_a_vocabulary_that_has_grown(place, tmp_path):
    """A token that the base lacks has probability 0 there: the distance is that of the padded distributions."""
    torch.manual_seed(0)
    grown = saved.aligned()
    grown.resize_token_embeddings(104, mean_resizing=False)
    saved.policy(tmp_path / "grown", grown)
    found = audit(tmp_path / "grown", place / "base", place / "prompts.jsonl")
    ids = saved.token_ids(place / "prompts.jsonl")
    z, z0 = naive(grown, ids)[2][-1], naive(tiny.llama(), ids)[2][-1]
    wide = np.concatenate([z0, np.full((len(ids), 4), -np.inf)], axis=1)
    assert found.readings[1].displacement == pytest.approx(reference.displacement(z, wide).mean(), abs=1e-5)
    back = audit(place / "base", tmp_path / "grown", place / "prompts.jsonl")
    assert back.readings[1].displacement == pytest.approx(reference.displacement(z0, z[:, :100]).mean(), abs=1e-5)


def test_a_base_without_the_chat_templates_tokens(place, tmp_path):
    small = tiny.llama()
    small.resize_token_embeddings(8)
    saved.policy(tmp_path / "small", small, tokenizer=False)
    words = "small has only 8 embeddings, but the other model's tokenizer or chat template uses token 9.: give prompts"
    with pytest.raises(ValueError, match=words):
        audit(place / "base", tmp_path / "small", place / "prompts.jsonl")
