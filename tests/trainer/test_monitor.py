"""monitor.py: one run, event by event, with a real probe and without a trainer."""

import math

import pytest
from stepwise import NEVER, Run

from spinal_callback.alerts.detector import CONFIRM_AFTER
from spinal_callback.alerts.rules import Limit
from spinal_callback.run_folder import REFERENCE_FILE

# --- which steps are probed


def test_the_start_what_is_due_and_the_last_step_are_probed_once(tmp_path):
    run = Run(tmp_path, every=4)
    run.to(10)
    run.end()
    assert run.steps == [0, 4, 8, 10]


def test_a_step_at_which_training_is_told_to_stop_is_probed(tmp_path):
    run = Run(tmp_path, every=4)
    run.to(4)
    run.control.should_training_stop = True
    run.to(5)
    run.end()
    assert run.steps == [0, 4, 5]


@pytest.mark.parametrize(("last_weights", "steps"), [(True, [0, 4, 5]), (False, [0, 4])])
def test_the_end_is_probed_if_the_weights_are_the_last_steps(tmp_path, last_weights, steps):
    run = Run(tmp_path, every=4)
    run.to(5)
    run.end(last_weights)
    assert run.steps == steps


# --- a probe beside those at the usual interval


def test_a_reading_over_a_limit_is_read_again_soon(tmp_path):
    """The second reading comes a few steps after the first, not at the next usual step."""
    run = Run(tmp_path, limits={**NEVER, "transport_rise": Limit(0.13)}, every=20)
    run.state.max_steps = 100
    run.to(19)
    run.grow(1.5)  # late transport rises by .175 of its start: over the limit, and not far
    run.to(24)
    assert run.steps == [0, 20] and run.memory.alerts == []
    assert run.memory.readings[-1].interval == CONFIRM_AFTER
    run.to(40)
    assert run.steps == [0, 20, 20 + CONFIRM_AFTER, 40]
    assert {alert.step for alert in run.memory.alerts} == {20 + CONFIRM_AFTER}
    assert run.memory.readings[2].interval == 20 - CONFIRM_AFTER


def test_a_calm_reading_is_not_read_again(tmp_path):
    run = Run(tmp_path, limits={**NEVER, "transport_rise": Limit(0.1)}, every=20)
    run.state.max_steps = 100
    run.to(39)
    assert run.steps == [0, 20]


FAST = {"rewards/chosen": -9.0, "rewards/rejected": -9.0, "logps/chosen": -100.0, "beta": 0.1}


@pytest.mark.parametrize(("share", "probed"), [(1.0, [0, 6]), (0.01, [0])])
def test_the_step_after_a_log_that_moves_fast_is_probed(tmp_path, share, probed):
    run = Run(tmp_path, every=100)
    run.state.max_steps, run.state.logging_steps = 100, 5
    run.gradients(0.5)
    run.to(1)
    run.monitor.logged({name: 0.0 if "reward" in name else value for name, value in FAST.items()}, run.state)
    run.to(5)
    run.monitor.logged(FAST | {n: share * FAST[n] for n in ("rewards/chosen", "rewards/rejected")}, run.state)
    run.to(20)
    assert run.steps == probed
    assert not math.isnan(run.memory.readings[-1].gradient_concentration) or probed == [0]


def test_a_log_of_another_trainer_asks_for_nothing(tmp_path):
    run = Run(tmp_path, every=100)
    run.state.max_steps, run.state.logging_steps = 100, 1
    for step in range(1, 10):
        run.to(step)
        run.monitor.logged({"loss": 10.0**step, "rewards/chosen": "nan", "beta": None}, run.state)
    assert run.steps == [0]


# --- what an alert leads to


WARNS = {**NEVER, "late_speed": Limit(1e-6, 1e9)}


@pytest.fixture
def alerted(tmp_path):
    def made(**fields):
        run = Run(tmp_path, limits=WARNS, every=1, **fields)
        run.to(2)
        run.grow(3.0)
        run.to(3)
        assert [(a.step, a.rule, a.level) for a in run.memory.alerts] == [(3, "late_speed", "warn")]
        return run

    return made


@pytest.mark.parametrize(("stop_on", "stops"), [("warn", True), ("error", False), (None, False)])
def test_an_alert_stops_training_from_the_level_asked_for_on(alerted, capsys, stop_on, stops):
    run = alerted(stop_on=stop_on)
    assert run.control.should_training_stop is stops
    assert capsys.readouterr().out.count("spinal  stops training at step 3: late_speed, stop_on='warn'") == stops


@pytest.mark.parametrize("asked", [True, False])
def test_a_checkpoint_is_asked_for_at_the_first_alert_alone(alerted, asked):
    run = alerted(save_on_alert=asked)
    assert run.control.should_save is asked
    run.control.should_save = False
    run.to(9)
    run.grow(1 / 3)
    run.monitor._detector._alarms["late_speed"]["warn"].raised = False  # armed again, as after a long calm
    run.monitor._detector._alarms["late_speed"]["warn"].last = -100
    run.to(10)
    assert len(run.memory.alerts) == 2
    assert run.control.should_save is False


def test_a_run_without_alerts_neither_stops_nor_saves(tmp_path):
    run = Run(tmp_path, limits=WARNS, every=1, stop_on="warn", save_on_alert=True)
    run.to(5)
    assert run.memory.alerts == []
    assert not run.control.should_training_stop
    assert not run.control.should_save


def test_the_last_checkpoint_that_a_calm_reading_came_after_is_named(tmp_path):
    """Saved after step 1 and step 2; the folder of the second is gone by the time of the alert."""
    run = Run(tmp_path, limits=WARNS, every=1)
    for step in (1, 2):
        run.to(step)
        (tmp_path / f"checkpoint-{step}").mkdir()
        run.monitor.saved(run.state)
        assert (tmp_path / f"checkpoint-{step}" / REFERENCE_FILE).exists()
    (tmp_path / "checkpoint-2" / REFERENCE_FILE).unlink()
    (tmp_path / "checkpoint-2").rmdir()
    run.grow(3.0)
    run.to(3)
    assert [a.last_good for a in run.memory.alerts] == ["checkpoint-1"]


def test_a_reference_that_cannot_be_saved_is_recorded(tmp_path):
    run = Run(tmp_path)
    run.to(2)
    with pytest.warns(UserWarning, match=r"^spinal: the reference was not saved at step 2: "):
        run.monitor.saved(run.state)  # there is no checkpoint-2 to put it into
    assert [(n.step, n.event) for n in run.memory.notices] == [(2, "probe_failed")]


# --- gradients


SAID = "layer gradients are unavailable in this mode; gradient concentration and score are not computed"


@pytest.mark.parametrize(("value", "said"), [(None, 1), (0.5, 0)])
def test_gradients_that_the_layers_do_not_have_are_mentioned_once(tmp_path, capsys, value, said):
    run = Run(tmp_path)
    run.gradients(value)
    run.to(6)
    assert capsys.readouterr().out.count(SAID) == said
    assert [math.isnan(r.gradient_concentration) for r in run.memory.readings] == [True, *[value is None] * 3]


def test_a_broken_models_missing_gradients_are_not_put_down_to_the_mode(tmp_path, capsys):
    run = Run(tmp_path)
    run.gradients(None)
    run.model.model.layers[1].mlp.up_proj.weight.data.fill_(math.nan)
    run.to(2)
    assert run.memory.readings[-1].nonfinite > 0
    assert SAID not in capsys.readouterr().out


def test_gradients_are_read_for_the_step_that_they_lead_to_and_no_other(tmp_path, monkeypatch):
    run = Run(tmp_path, every=4)
    run.gradients(0.5)
    run.to(3)
    assert run.monitor._gradients is None
    run.monitor.before_optimizer_step(run.state)
    assert run.monitor._gradients.shape == (5,)
    run.state.global_step += 1
    run.monitor.step_ended(run.state, run.control)
    assert run.monitor._gradients is None


def test_gradients_are_left_alone_if_they_are_not_asked_for(tmp_path):
    run = Run(tmp_path, gradients=False)
    run.gradients(0.5)
    run.to(2)
    assert [math.isnan(r.gradient_concentration) for r in run.memory.readings] == [True, True]


# --- the Trainer's numbers


def test_numbers_are_kept_with_the_step_they_were_logged_at(tmp_path):
    run = Run(tmp_path)
    run.to(1)
    run.monitor.logged({"loss": 0.5, "rewards/margins": 1, "epoch": 0.1, "lr": "x", "beta": 0.1}, run.state)
    run.to(2)
    assert run.memory.readings[-1].trainer == {"step": 1, "loss": 0.5, "rewards/margins": 1, "beta": 0.1}
    run.to(3)
    run.monitor.logged({"eval_loss": 0.7, "beta": 0.1}, run.state)
    run.to(4)
    assert run.memory.readings[-1].trainer["step"] == 1
    run.monitor.logged({"loss": math.nan, "beta": None}, run.state)
    run.to(6)
    last = run.memory.readings[-1].trainer
    assert (last["step"], last["rewards/margins"], last["beta"]) == (4, 1, 0.1)
    assert math.isnan(last["loss"])
