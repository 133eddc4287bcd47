"""Thirteen public bugs, each planted in a copy of the loss or the loop: a named check must catch it."""

import ast
import importlib.util
import inspect
from functools import partial
from pathlib import Path

import pytest
import torch

import kdlib
from kdlib import losses
from kdlib.levels import museum
from kdlib.levels.checks import minds_the_classes
from kdlib.losses import kd

NUMBERS = [exhibit.number for exhibit in museum.EXHIBITS]
LOSS_BUGS = [exhibit.number for exhibit in museum.EXHIBITS if exhibit.of == "loss"]


def caught(frame):
    return set(frame.loc[~frame["passed"], "number"])


def test_every_bug_of_the_catalogue_has_an_exhibit():
    assert list(range(1, 14)) == NUMBERS


@pytest.mark.parametrize("loss", [losses.kd_loss, museum.buggy_loss])
def test_the_correct_versions_pass_every_check(loss):
    assert caught(museum.audit(loss, museum.buggy_run)) == set()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_planted_bug_is_caught_by_its_own_check(number):
    frame = museum.audit(partial(museum.buggy_loss, bug=number), partial(museum.buggy_run, bug=number))
    assert number in caught(frame)
    assert frame.set_index("number")["message"][number]


# The same bugs written into the source of the library's own loss: (what stands there, what a slip would make of it).
SLIPS = {
    2: ("_kl(log_p, log_q)", "_kl(log_p, log_p)"),
    3: ("temperature**2 if t_squared else 1.0", "1.0"),
    4: ("_kl(log_p, log_q)", "_kl(log_p, log_q) / log_p.shape[-1]"),
    6: ("if t_squared else", "if not t_squared else"),
    8: ("_over(z, temperature)", "_over(z, 1.0)"),
    10: ("    log_p = ", "    z = z.bfloat16().to(z)\n    log_p = "),
    11: ("log_softmax(_over(z, temperature), dim=-1)", "softmax(_over(z, temperature), dim=-1).log()"),
    12: (
        "    z, v, labels",
        "    teacher_logits = torch.nn.functional.pad(\n"
        "        teacher_logits, (0, student_logits.shape[-1] - teacher_logits.shape[-1])\n    )\n    z, v, labels",
    ),
}


def slipped(number):
    source, (old, new) = inspect.getsource(losses.kd_loss), SLIPS[number]
    assert source.count(old) == 1
    namespace = dict(vars(kd))
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), f"bug {number}", "exec"), namespace)
    return namespace["kd_loss"]


def test_all_loss_bugs_are_planted_in_the_library_too():
    assert sorted(SLIPS) == LOSS_BUGS


@pytest.mark.parametrize("number", LOSS_BUGS)
def test_a_slip_in_the_librarys_loss_is_caught(number):
    assert number in caught(museum.audit(slipped(number), museum.buggy_run))


def test_padding_with_probability_zero_is_accepted():
    """A loss may fill missing classes itself, if their mass is exactly 0."""

    def lenient(z, v, y, temperature, alpha):
        missing = z.shape[-1] - v.shape[-1]
        return losses.kd_loss(z, torch.nn.functional.pad(v, (0, missing), value=-1e4), y, temperature, alpha)

    minds_the_classes(lenient)


def test_a_fleet_pairs_targets_with_examples():
    """Bug 5 in the library's own loop: examples stored in another order, with their targets, give the same student."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=g, dtype=torch.float64), torch.arange(50) % 5
    targets = losses.soften(torch.randn(50, 5, generator=g, dtype=torch.float64))
    order = torch.randperm(50, generator=g)

    def weights(x, y, targets):
        task = kdlib.Task(x, y, x, y, 5)
        recipe = kdlib.Recipe("KD", targets, temperature=4.0)
        fleet = kdlib.train(task, recipe, seeds=2, hidden=(8,), epochs=3, batch_size=50, dtype=torch.float64)
        return fleet.weights[-1]

    plain = weights(x, y, targets)
    torch.testing.assert_close(weights(x[order], y[order], targets[order]), plain, atol=1e-10, rtol=0)
    assert (weights(x[order], y[order], targets) - plain).abs().max() > 1e-4


def test_library_metrics_and_losses_are_one_normalisation():
    """Bug 13 in the library: the nll that evaluation reports is the mean of the loss that training minimises."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 6, generator=g), torch.arange(300) % 5
    task = kdlib.Task(x, y, x, y, 5)
    fleet = kdlib.train(task, kdlib.Recipe.hard(), seeds=1, hidden=(8,), epochs=2)
    loss = losses.cross_entropy(fleet.predict(x), y).mean()
    assert fleet.evaluate(task)["nll"][0] == pytest.approx(loss.item(), rel=1e-5)


def test_every_slip_of_the_mutation_run_is_another_program_that_compiles():
    path = Path(__file__).with_name("mutants.py")
    spec = importlib.util.spec_from_file_location("mutants", path)
    mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    assert "kdlib.losses.kd" in mutants.TESTS and "kdlib.claims" in mutants.TESTS
    for module, tests in mutants.TESTS.items():
        assert all((mutants.ROOT / test).is_file() for test in tests)
        source = (mutants.ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        count = len(list(mutants.places(ast.parse(source))))
        assert count > 15
        for number in range(0, count, 10):
            tree, words = mutants.slipped((module, number))
            assert ast.unparse(tree) != ast.unparse(ast.parse(source)), words
            compile(ast.fix_missing_locations(tree), "slip", "exec")
