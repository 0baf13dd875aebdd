"""The benchmarks run, on a tiny model, and what they share counts right."""

import json
import sys

import pytest
import saved
import torch
from paths import ROOT

for folder in ("recipes", "scripts", "scripts/benchmarks"):
    sys.path.insert(0, str(ROOT / folder))

import bench_answers  # noqa: E402
import bench_audit  # noqa: E402
import bench_logging  # noqa: E402
import bench_memory  # noqa: E402
import bench_modes  # noqa: E402
import bench_probe  # noqa: E402
import timing  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(saved.reads_bytes(tmp_path_factory.mktemp("model")))


def called(monkeypatch, benchmark, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    return benchmark.main()


def test_works_are_taken_in_turn_and_the_first_round_does_not_count():
    order = []
    took = timing.in_turn(2, a=lambda: order.append("a"), b=lambda: order.append("b"))
    assert order == ["a", "b"] * 3 and {name: len(times) for name, times in took.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_of_neighbours():
    assert timing.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == 3.0  # of 2, 3, 8


def test_a_product_counts_its_operations():
    work, operations = timing.product(3, 5, 7, repeats=2)
    assert [tuple(x.shape) for x in work()] == [(3, 7)] * 2 and operations == 2 * 3 * 5 * 7 * 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_what_work_adds_at_its_highest():
    assert 240 < timing.peak_mib(lambda: torch.ones(2**26)) < 300  # 256 MiB, freed at once
    assert timing.peak_mib(lambda: None) < 32


def test_a_calm_run_of_every_auto_probes_at_both_ends_and_more_rarely_the_dearer_it_is():
    assert bench_probe._probes(4, cost=0.5) == 2
    assert bench_probe._probes(1000, cost=0.1) > bench_probe._probes(1000, cost=1.0) >= 3


def test_stages_and_the_naive_method(model, monkeypatch, capsys):
    called(monkeypatch, bench_probe, "stages", "naive", "--model", model, "--repeats", 1, "--count", 16)
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line[:1].isalpha()]
    assert "64 prompts" in printed and "naive" in printed and "times" in printed
    assert {"bare", "forward", "lens", "spectra", "statistics", "logging", "probe"} <= set(rows)


def test_a_part_that_is_not_there_is_refused(model, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        called(monkeypatch, bench_probe, "stagse", "--model", model)
    assert "PART must be one of stages, naive," in capsys.readouterr().err


@pytest.mark.parametrize("method", list(bench_memory.METHODS))
def test_memory_of_each_method(model, monkeypatch, capsys, method):
    assert called(monkeypatch, bench_memory, "--model", model, "--only", method) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["peak"] > 0


def test_logging(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    called(monkeypatch, bench_logging, "--layers", 6, "--readings", 5)  # a sink that is dropped leaves no page
    assert "6 layers, 5 readings" in (printed := capsys.readouterr().out) and "the end: page, table" in printed


def test_answers(model, monkeypatch, capsys):
    called(monkeypatch, bench_answers, "--model", model, "--repeats", 1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["answers", "0", "8", "16", "32"] and rows[1][2] == "1.00"


def test_audit(model, monkeypatch, capsys):
    called(monkeypatch, bench_audit, "--model", model, "--num-prompts", 12, "--runs", 1)
    assert "12 prompts, median ratio" in capsys.readouterr().out
    code = called(monkeypatch, bench_audit, "--model", model, "--num-prompts", 12, "--runs", 1, "--preset", "paper")
    assert code == 0 and "limit inf; memory" in capsys.readouterr().out
    monkeypatch.setattr(timing, "clock", timing.time.perf_counter)  # the audit's has switched to processor time


def test_memory_of_training_with_and_without_the_probe(model, monkeypatch, tmp_path):
    told = {watched: bench_modes.one_run(model, "full", watched, str(tmp_path)) for watched in (False, True)}
    assert all(run["peak"] > 0 for run in told.values())
