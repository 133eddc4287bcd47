"""Budgets stand in units of the machine: the same work costs the same wherever and beside whatever it runs."""

import json
import subprocess
import sys
from typing import Any

import pytest
from nbformat.v4 import new_notebook

from book.tools import budgets, calibration
from book.tools.budgets import Measured
from book.tools.calibration import Calibration
from book.tools.processes import Usage

from .tinybook import ROOT

REFERENCE = Calibration((0.2, 0.25), (0.2, 0.3))  # its two CPUs get in each other's way a little


@pytest.fixture(autouse=True)
def _reference(monkeypatch):
    monkeypatch.setattr(calibration, "reference", lambda: REFERENCE)


def cost(usage: Usage, machine: Calibration = REFERENCE) -> calibration.Cost:
    return calibration.cost(usage, machine, REFERENCE)


def slower(factor: float) -> Calibration:
    cpu, wall = ((one * factor, two * factor) for one, two in (REFERENCE.cpu, REFERENCE.wall))
    return Calibration(cpu, wall)


# 40 s of work by one process, then 10 s by two
SERIAL, MIXED = Usage(40, 40, 40, 300), Usage(50, 60, 60, 300)


@pytest.mark.parametrize("usage", [SERIAL, MIXED])
@pytest.mark.parametrize("factor", [1, 2.5])
def test_a_reference_second_is_a_second_of_the_reference_machine(usage, factor):
    there = Usage(usage.wall * factor, usage.cpu * factor, usage.wanted * factor, 300)
    assert cost(there, slower(factor)).seconds == pytest.approx(usage.wall)
    assert cost(there, slower(factor)).wall == pytest.approx(usage.wall)


def test_two_processes_are_measured_by_two_processes():
    both = Usage(30, 60, 60, 300)
    crowded = Calibration((0.2, 0.5), (0.2, 0.6))  # two at once take twice as long as the reference's two
    assert cost(Usage(60, 120, 120, 300), crowded).seconds == pytest.approx(cost(both).seconds)
    assert cost(SERIAL, crowded).seconds == pytest.approx(40)


def test_a_neighbour_after_the_calibration_costs_nothing():
    stretched = Usage(MIXED.wall * 2, MIXED.cpu, MIXED.wanted * 2, 300)
    assert stretched.share == 0.5 and stretched.disturbed
    assert cost(stretched).seconds == pytest.approx(cost(MIXED).seconds)
    assert cost(stretched).wall == pytest.approx(2 * cost(MIXED).wall)


def test_a_neighbour_that_was_there_before_costs_nothing():
    """It halves what one CPU gives, so that the clock of two processes runs twice as fast as before."""
    beside = Calibration(REFERENCE.cpu, (0.2, 0.6))
    stretched = Usage(60, 60, 120, 300)
    assert cost(stretched, beside).seconds == pytest.approx(cost(Usage(30, 60, 60, 300)).seconds)


def test_more_cpus_than_two_make_nothing_cheaper():
    eight = Usage(15, 120, 120, 300)
    assert cost(eight).wall == pytest.approx(cost(Usage(60, 120, 120, 300)).wall)
    assert cost(eight).cpu == pytest.approx(cost(Usage(60, 120, 120, 300)).cpu)


def test_waiting_for_nothing_is_no_disturbance():
    idle = Usage(100, 1, 1, 100)
    assert not idle.disturbed and idle.processes == 1
    assert cost(idle).seconds == pytest.approx(1)


def notebook(usage: Usage | None = SERIAL, machine: Calibration | None = REFERENCE) -> Any:
    facts = Measured(usage, machine).to_metadata() if usage else {}
    return new_notebook(metadata={"kdlib": {"key": "x", **facts}})


def test_the_gate_names_cost_budget_and_machine():
    assert budgets.over_budget({"a": notebook(Usage(59, 59, 59, 1849))}) == []
    (fault,) = budgets.over_budget({"a": notebook(Usage(122, 122, 122, 10), slower(2))})
    assert fault == (
        "a: cost 61.0 reference seconds, the budget is 60 (CPU time 61.0, clock 61.0; here 122.0 s on a machine at "
        "2.00 (2.00 by the clock) times the reference's CPU time, 2.00 (2.00) with two processes)"
    )
    assert budgets.over_budget({"a": notebook(Usage(1, 1, 1, 1851))}) == [
        "a: its processes held 1851 MB together, the budget is 1850 MB"
    ]
    for unknown in (notebook(None), notebook(SERIAL, None)):
        assert budgets.over_budget({"a": unknown}) == ["a: its cost was not measured; run it again"]
        assert budgets.costs({"a": unknown}) == []


def test_neither_wall_time_nor_cpu_time_alone_is_a_fault():
    disturbed, throttled = notebook(Usage(300, 50, 100, 10)), notebook(Usage(50, 90, 90, 10))
    assert budgets.over_budget({"a": disturbed, "b": throttled}) == []
    assert "disturbed from outside: it got 50% of the CPU time it asked for" in budgets.costs({"a": disturbed})[0]


def test_the_book_has_ten_reference_minutes():
    many = {str(number): notebook(Usage(50, 50, 50, 10)) for number in range(13)}
    assert budgets.over_budget(many) == ["all chapters together cost 650 reference seconds, the budget is 600"]
    assert budgets.costs(many)[-1] == "all chapters: 650 of 600 reference seconds"


@pytest.mark.slow
def test_the_machine_is_measured_and_a_measurement_serves_a_minute(monkeypatch):
    now = calibration.measure()
    for cpu, wall in zip(now.cpu, now.wall, strict=True):
        assert 0.02 < cpu < 10 and wall > 0.9 * cpu
    rounds = [now, slower(2)]
    monkeypatch.setattr(calibration, "_last", None)
    monkeypatch.setattr(calibration, "measure", lambda: rounds.pop(0))
    assert calibration.current() == calibration.current() == now
    assert calibration.current(max_age=0.0) == slower(2)


def test_the_load_knows_nothing_of_the_library():
    """A yardstick that changed with the library would hide what the library costs."""
    program = "import sys; from book.tools.calibration import Load; Load().steps(1); print('kdlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_load_trains_as_autograd_does():
    import torch

    load = calibration.Load()
    weights = [weight.double().requires_grad_() for weight in load.weights]
    hidden = load.x.double()
    for weight in weights[:-1]:
        hidden = (hidden @ weight).relu()
    loss = -(load.y * (hidden @ weights[-1]).log_softmax(-1)).sum(-1).mean(-1).sum()
    gradients = torch.autograd.grad(loss, weights)
    load.steps(1)
    for momentum, gradient in zip(load.momenta, gradients, strict=True):
        torch.testing.assert_close(momentum.double(), gradient, rtol=1e-4, atol=1e-6)


def test_the_reference_is_on_record():
    record = Calibration.of(json.loads(calibration.REFERENCE.read_text("utf8")))
    assert all(0.05 < seconds < 5 for seconds in (*record.cpu, *record.wall))
