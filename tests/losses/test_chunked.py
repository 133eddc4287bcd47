"""Chunked losses against the direct ones, of logits that are held and differentiated by autograd, in float64."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdlib.losses import chunked_jsd_loss, chunked_kd_loss, jsd_loss, kd_loss

from .. import compiler

INF, NAN = float("inf"), float("nan")
settings = st.builds(
    dict,
    temperature=st.sampled_from([0.7, 1.0, 4.0]),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    beta=st.sampled_from([None, 0.0, 0.25, 1.0]),
)
chunks = st.one_of(st.none(), st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 20)))


class Problem:
    """Hidden states and layers of student and teacher; `direct` is the loss of the logits, `chunked` the one under test."""

    def __init__(self, seed: int, n: int, k: int, d: int = 4, bias: bool = True, dtype: torch.dtype = torch.float64):
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        self.h, self.w, self.b = normal(n, d), normal(k, d), normal(k) if bias else None
        self.th, self.tw, self.tb = normal(n, 3), normal(k, 3), normal(k) if bias else None
        self.y = torch.randint(k, (n,), generator=g)

    @property
    def student(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.h, self.w, self.b) if t is not None)

    @property
    def teacher_logits(self) -> Tensor:
        v = self.th @ self.tw.T
        return v if self.tb is None else v + self.tb

    def direct(self, h: Tensor, w: Tensor, b: Tensor | None = None, beta: float | None = None, **kwargs: Any) -> Tensor:
        z = h @ w.T if b is None else h @ w.T + b
        if beta is None:
            return kd_loss(z, self.teacher_logits.to(z), self.y, **kwargs)
        return jsd_loss(z, self.teacher_logits.to(z), self.y, **kwargs, beta=beta)

    def chunked(
        self,
        h: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        table: bool = True,
        beta: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        loss: Callable[..., Tensor] = chunked_kd_loss
        if beta is not None:
            loss, kwargs["beta"] = chunked_jsd_loss, beta
        if table:
            kwargs["teacher_logits"] = self.teacher_logits
        else:
            kwargs |= {"teacher_hidden": self.th, "teacher_weight": self.tw, "teacher_bias": self.tb}
        return loss(h, w, self.y, student_bias=b, **kwargs)


def derivatives(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...], incoming: Tensor) -> tuple[Tensor, ...]:
    """The losses and the gradient of each input."""
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    value = loss(*inputs)
    return (value.detach(), *torch.autograd.grad(value, inputs, incoming.to(value)))


def assert_same(
    found: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float = 1e-10, atol: float = 1e-11
) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@given(st.integers(0, 10**6), st.integers(0, 8), st.integers(1, 17), settings, chunks, st.booleans(), st.booleans())
def test_value_and_every_gradient_are_the_direct_ones(
    seed: int, n: int, k: int, setting: dict[str, Any], chunk: Any, table: bool, bias: bool
) -> None:
    problem = Problem(seed, n, k, bias=bias)
    for incoming in (torch.full((n,), 0.37), torch.rand(n, generator=torch.Generator().manual_seed(seed))):
        found = derivatives(
            lambda *s: problem.chunked(*s, table=table, chunk=chunk, **setting), problem.student, incoming
        )
        expected = derivatives(lambda *s: problem.direct(*s, **setting), problem.student, incoming)
        assert_same(found, expected)


@pytest.mark.parametrize("beta", [None, 0.5, 1.0])
@pytest.mark.parametrize("table", [True, False])
def test_in_float32_they_are_those_of_float64_to_a_hundred_thousandth(beta: float | None, table: bool) -> None:
    exact = Problem(1, 70, 3000, d=24)
    single = Problem(1, 70, 3000, d=24, dtype=torch.float32)
    found = derivatives(
        lambda *s: single.chunked(*s, table=table, beta=beta, chunk=(32, 999)), single.student, torch.ones(70)
    )
    expected = derivatives(lambda *s: exact.direct(*s, beta=beta), exact.student, torch.ones(70))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("beta", [None, 0.3, 1.0])
def test_autograds_own_check(beta: float | None) -> None:
    problem = Problem(2, 5, 7)
    inputs = tuple(t.requires_grad_() for t in problem.student)
    assert torch.autograd.gradcheck(lambda *s: problem.chunked(*s, beta=beta, chunk=(2, 3)), inputs)


@pytest.mark.parametrize("size", [1, 7])
def test_loss_is_zero_with_zero_gradient_at_the_teacher(size: int) -> None:
    h, w = torch.randn(3, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    for loss in (chunked_kd_loss, chunked_jsd_loss):
        value, *gradients = derivatives(
            lambda h, w, loss=loss: loss(h, w, teacher_hidden=h, teacher_weight=w, alpha=1.0, chunk=size),
            (h, w),
            torch.ones(3),
        )
        assert value.abs().max() < 1e-14
        assert max(g.abs().max() for g in gradients) < 1e-14


class TestWeights:
    """`weights` is part of the loss; where it is 0, the example is not there."""

    weights = torch.tensor([0.5, 0.0, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)

    @pytest.mark.parametrize("beta", [None, 0.4, 1.0])
    @pytest.mark.parametrize("chunk", [None, 1, (2, 3)])
    def test_it_multiplies(self, beta: float | None, chunk: Any) -> None:
        problem = Problem(3, 6, 8)
        found = derivatives(
            lambda *s: problem.chunked(*s, beta=beta, chunk=chunk, weights=self.weights), problem.student, torch.ones(6)
        )
        assert_same(
            found, derivatives(lambda *s: self.weights * problem.direct(*s, beta=beta), problem.student, torch.ones(6))
        )

    @pytest.mark.parametrize("beta", [None, 0.4, 1.0])
    @pytest.mark.parametrize("table", [True, False])
    @pytest.mark.parametrize("incoming", [torch.ones(6), torch.arange(6.0)])
    def test_nothing_of_a_row_of_weight_0_is_read(self, beta: float | None, table: bool, incoming: Tensor) -> None:
        clean, spoilt, gone = Problem(4, 6, 8), Problem(4, 6, 8), self.weights == 0
        spoilt.h[gone], spoilt.th[gone], spoilt.y[gone] = NAN, NAN, -100
        found, expected = (
            derivatives(
                lambda *s, p=p: p.chunked(*s, table=table, beta=beta, weights=self.weights), p.student, incoming
            )
            for p in (spoilt, clean)
        )
        assert_same(found, expected, rtol=0, atol=0)
        assert found[0][gone].abs().max() == 0 and found[1][gone].abs().max() == 0
        assert found[0][~gone].min() > 0

    def test_all_of_weight_0(self) -> None:
        problem = Problem(5, 3, 4)
        found = derivatives(lambda *s: problem.chunked(*s, weights=torch.zeros(3)), problem.student, torch.ones(3))
        assert all(t.abs().max() == 0 for t in found)


class TestImpossibleClasses:
    """Logits of -inf: classes of probability 0."""

    @pytest.mark.parametrize("beta", [None, 0.0, 0.4, 1.0])
    @pytest.mark.parametrize("alpha", [0.5, 1.0])
    @pytest.mark.parametrize("table", [True, False])
    def test_in_both_they_cost_nothing(self, beta: float | None, alpha: float, table: bool) -> None:
        wide, narrow = Problem(6, 5, 9), Problem(6, 5, 9)
        wide.y %= 4
        narrow.y = wide.y
        assert wide.b is not None and wide.tb is not None
        wide.b[4:], wide.tb[4:] = -INF, -INF  # whole pieces of three, and part of one
        found = derivatives(
            lambda *s: wide.chunked(*s, table=table, alpha=alpha, beta=beta, chunk=(2, 3)), wide.student, torch.ones(5)
        )
        narrow.w, narrow.b, narrow.tw, narrow.tb = narrow.w[:4], narrow.b[:4], narrow.tw[:4], narrow.tb[:4]
        expected = derivatives(lambda *s: narrow.direct(*s, alpha=alpha, beta=beta), narrow.student, torch.ones(5))
        assert_same((found[0], found[1], found[2][:4], found[3][:4]), expected)
        assert found[2][4:].abs().max() == 0 and found[3][4:].abs().max() == 0

    @pytest.mark.parametrize("beta", [None, 0.0, 0.4])
    @pytest.mark.parametrize("table", [True, False])
    def test_in_the_teacher_alone_as_in_the_direct_loss(self, beta: float | None, table: bool) -> None:
        problem = Problem(7, 5, 9)
        assert problem.tb is not None
        problem.tb[2:5] = -INF
        found = derivatives(
            lambda *s: problem.chunked(*s, table=table, beta=beta, chunk=(2, 2)), problem.student, torch.ones(5)
        )
        assert_same(found, derivatives(lambda *s: problem.direct(*s, beta=beta), problem.student, torch.ones(5)))

    def test_infinite_where_the_loss_is(self) -> None:
        problem = Problem(8, 4, 6)
        assert problem.b is not None and problem.tb is not None
        problem.y[:] = 0
        problem.b[3] = -INF  # the teacher gives it something
        assert (problem.chunked(*problem.student, chunk=(2, 2)) == INF).all()
        assert problem.chunked(*problem.student, beta=1.0, chunk=(2, 2)).isfinite().all()
        assert (
            problem.chunked(*problem.student, alpha=0.0, chunk=(2, 2)).isfinite().all()
        )  # the other term is not there
        problem.y[:], problem.tb[3] = 3, -INF
        assert (problem.chunked(*problem.student, chunk=(2, 2)) == INF).all()
        assert problem.chunked(*problem.student, alpha=1.0, chunk=(2, 2)).isfinite().all()

    @pytest.mark.parametrize("beta", [None, 0.4, 1.0])
    def test_nan_is_not_taken_for_a_probability_of_0(self, beta: float | None) -> None:
        for name in ("h", "th"):
            problem = Problem(9, 4, 6)
            getattr(problem, name)[1, 0] = NAN
            loss, *gradients = derivatives(
                lambda *s, p=problem: p.chunked(*s, beta=beta, chunk=(2, 4)), problem.student, torch.ones(4)
            )
            assert loss.isnan().tolist() == [False, True, False, False]
            assert gradients[0].isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("beta", [None, 0.5, 1.0])
def test_extreme_logits_stay_finite(size: float, beta: float | None) -> None:
    h = torch.tensor([[size], [-size], [0.0]])
    w = torch.tensor([[1.0], [-1.0], [0.5], [0.0]])
    v = size * torch.tensor([[1.0, 0, -1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    y = torch.tensor([0, 0, 0])
    loss = chunked_kd_loss if beta is None else chunked_jsd_loss
    kwargs = {} if beta is None else {"beta": beta}
    found = derivatives(
        lambda h, w: loss(h, w, y, teacher_logits=v, temperature=2.0, chunk=(1, 3), **kwargs), (h, w), torch.ones(3)
    )
    assert all(t.isfinite().all() for t in found)
    if beta is None:
        expected = derivatives(
            lambda h, w: kd_loss(h @ w.T, v.double(), y, 2.0), (h.double(), w.double()), torch.ones(3)
        )
        assert_same(tuple(t.double() for t in found), expected, rtol=2e-6, atol=1e-3)


class TestDtypes:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("table", [True, False])
    def test_half_precision_is_widened_before_anything_and_rounded_once(self, dtype: torch.dtype, table: bool) -> None:
        problem = Problem(10, 300, 50, d=16, dtype=dtype)
        found = derivatives(
            lambda *s: problem.chunked(*s, table=table, chunk=(64, 16)).mean()[None], problem.student, torch.ones(1)
        )
        v = problem.teacher_logits if table else (problem.th.double() @ problem.tw.double().T) + problem.tb  # type: ignore[operator]
        expected = derivatives(
            lambda h, w, b: kd_loss(h @ w.T + b, v.double(), problem.y).mean()[None],
            tuple(t.double() for t in problem.student),
            torch.ones(1),
        )
        assert found[0].dtype == torch.float32
        torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=0)
        for ours, theirs in zip(found[1:], expected[1:], strict=True):
            assert ours.dtype == dtype
            off = (ours.double() - theirs).abs()
            smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            assert (off <= 0.51 * torch.finfo(dtype).eps * theirs.abs() + smallest).all()

    def test_autocast_changes_nothing(self) -> None:
        problem = Problem(11, 40, 60, d=32, dtype=torch.float32)
        loss = partial(problem.chunked, table=False)
        plain = derivatives(loss, problem.student, torch.ones(40))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = torch.nn.functional.linear(problem.h, torch.eye(32))  # as a network under autocast hands it on
            inside = derivatives(loss, problem.student, torch.ones(40))
            mixed = loss(hidden, *problem.student[1:])
        assert hidden.dtype == torch.bfloat16
        assert_same(inside, plain, rtol=0, atol=0)
        torch.testing.assert_close(mixed, loss(hidden.float(), *problem.student[1:]), rtol=0, atol=0)


class TestTransforms:
    problem = Problem(12, 5, 11)

    def chunked(self, *student: Tensor) -> Tensor:
        return self.problem.chunked(*student, chunk=(2, 4))

    @pytest.mark.parametrize("reduce", [torch.mean, lambda loss: (loss * torch.arange(5)).sum()])
    def test_func_grad(self, reduce: Callable[[Tensor], Tensor]) -> None:
        found, expected = (
            torch.func.grad(lambda *s, f=f: reduce(f(*s)), (0, 1, 2))(*self.problem.student)
            for f in (self.chunked, self.problem.direct)
        )
        assert_same(found, expected)

    def test_jacobian(self) -> None:
        found, expected = (
            torch.func.jacrev(f, (0, 1, 2))(*self.problem.student) for f in (self.chunked, self.problem.direct)
        )
        assert_same(found, expected)

    def test_several_backward_passes_at_once(self) -> None:
        """Of incoming gradients that are alike within, but not between: the sums must not be scaled in turn."""
        incoming = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)[:, None].expand(3, 5)
        found, expected = (
            torch.func.vmap(torch.func.vjp(f, *self.problem.student)[1])(incoming)
            for f in (self.chunked, self.problem.direct)
        )
        assert_same(found, expected)

    def test_students_side_by_side(self) -> None:
        h, w, b = torch.randn(3, 5, 4).double(), torch.randn(11, 3, 4).double(), self.problem.b
        dims = (0, 1, None)
        for wrap in (
            lambda f: lambda *s: (torch.func.vmap(f, dims)(*s),),
            lambda f: torch.func.vmap(torch.func.grad(lambda *s: f(*s).mean(), (0, 1, 2)), dims),
            lambda f: torch.func.grad(lambda *s: torch.func.vmap(f, dims)(*s).square().sum(), (0, 1, 2)),
        ):
            assert_same(wrap(self.chunked)(h, w, b), wrap(self.problem.direct)(h, w, b))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_compiled(self) -> None:
        compiler.needed()

        def step(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda h, w, b: 2 * f(torch.tanh(h), w, b).mean()[None]

        found = derivatives(torch.compile(step(self.chunked)), self.problem.student, torch.ones(1))
        assert_same(found, derivatives(step(self.problem.direct), self.problem.student, torch.ones(1)))

    def test_second_derivatives_are_refused(self) -> None:
        h, w, b = (t.clone().requires_grad_() for t in self.problem.student)
        (g,) = torch.autograd.grad(self.chunked(h, w, b).sum(), h, create_graph=True)
        with pytest.raises(RuntimeError, match="first derivatives only"):
            g.sum().backward()
        inner = torch.func.grad(lambda h: self.chunked(h, w, b).sum())
        with pytest.raises(RuntimeError, match="first derivatives only"):
            torch.func.grad(lambda h: inner(h).square().sum())(h.detach())


class TestGraphs:
    def test_a_second_backward_is_right_too_and_leaves_the_first_alone(self) -> None:
        problem = Problem(13, 5, 7)
        inputs = tuple(t.requires_grad_() for t in problem.student)
        loss = problem.chunked(*inputs).sum()
        first = torch.autograd.grad(loss, inputs, 0.5 * torch.ones(()), retain_graph=True)
        kept = tuple(g.clone() for g in first)
        second = torch.autograd.grad(loss, inputs)
        assert_same(first, kept, rtol=0, atol=0)
        assert_same(second, tuple(2 * g for g in kept))

    def test_gradients_add_up_over_batches(self) -> None:
        problem = Problem(14, 6, 7)
        for t in problem.student:
            t.requires_grad_()
        for _ in range(2):
            problem.chunked(*problem.student).mean().backward()
        expected = derivatives(
            problem.direct, tuple(t.detach() for t in problem.student), torch.full((6,), 1 / 3, dtype=torch.float64)
        )
        assert_same(tuple(t.grad for t in problem.student), expected[1:])  # type: ignore[arg-type]

    def test_only_what_asks_for_a_gradient_gets_one(self) -> None:
        problem = Problem(15, 5, 7)
        expected = derivatives(problem.direct, problem.student, torch.ones(5))[1:]
        for i in range(3):
            student = [t.detach().clone().requires_grad_(i == j) for j, t in enumerate(problem.student)]
            problem.chunked(*student, chunk=2).sum().backward()
            torch.testing.assert_close(student[i].grad, expected[i])
            assert all(t.grad is None for j, t in enumerate(student) if j != i)
        problem.th.requires_grad_()
        problem.tw.requires_grad_()
        assert not problem.chunked(*problem.student, table=False).requires_grad

    def test_value_is_the_same_without_gradients(self) -> None:
        problem = Problem(16, 5, 7)
        for beta in (None, 0.5):
            with torch.no_grad():
                plain = problem.chunked(*problem.student, beta=beta)
            assert not plain.requires_grad
            with_gradient = problem.chunked(problem.h.requires_grad_(), problem.w, problem.b, beta=beta)
            torch.testing.assert_close(plain, with_gradient.detach(), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    problem = Problem(17, 30, 50)
    expected = derivatives(problem.direct, problem.student, torch.ones(30))
    v, y = problem.teacher_logits.cuda(), problem.y.cuda()
    found = derivatives(
        lambda h, w, b: chunked_kd_loss(h, w, y, teacher_logits=v, student_bias=b, chunk=(7, 16)),
        tuple(t.cuda() for t in problem.student),
        torch.ones(30),
    )
    assert_same(tuple(t.cpu() for t in found), expected)


PEAK = """
import sys, torch
from kdlib.losses import chunked_kd_loss, kd_loss
torch.set_num_threads(1)
how, table, n, k, d = sys.argv[1], sys.argv[2] == "table", *map(int, sys.argv[3:])

def loss(n, k):
    h, w, y = (torch.randn(n, d, requires_grad=True), torch.randn(k, d, requires_grad=True), torch.zeros(n, dtype=torch.int64))
    th, tw = (None, torch.randn(n, k)) if table else (torch.randn(n, d), torch.randn(k, d))
    yield
    if how == "direct":
        value = kd_loss(h @ w.T, tw if table else th @ tw.T, y)
    elif table:
        value = chunked_kd_loss(h, w, y, teacher_logits=tw)
    else:
        value = chunked_kd_loss(h, w, y, teacher_hidden=th, teacher_weight=tw)
    value.mean().backward()
    yield

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

list(loss(3, 5))  # what is loaded at the first call
run = loss(n, k)
next(run)
before = peak()
next(run)
print(peak() - before)
"""


def peak_bytes(*args: object) -> int:
    """Bytes above the inputs that both passes take at most, in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(PEAK), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("teacher", ["table", "hidden"])
def test_peak_memory_is_below_a_third_and_below_one_array_of_logits(teacher: str) -> None:
    n, k, d = 512, 65_536, 32
    direct, chunked = (peak_bytes(how, teacher, n, k, d) for how in ("direct", "chunked"))
    assert chunked < direct / 3
    assert chunked < 4 * k * d + 0.75 * 4 * n * k  # the weight's gradient once, and no (N, K) of any kind


H, W, V, Y = torch.zeros(3, 2), torch.zeros(5, 2), torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student_hidden": torch.zeros(2, 3, 2)}, ["student_hidden", "(any, any)", "(2, 3, 2)"]),
        ({"student_hidden": Y}, ["student_hidden", "floating-point", "int64"]),
        ({"student_weight": torch.zeros(5, 3)}, ["student_weight", "(any, 2)", "(5, 3)"]),
        ({"student_weight": torch.zeros(0, 2), "teacher_logits": torch.zeros(3, 0)}, ["student_weight", "at least 1"]),
        ({"student_bias": torch.zeros(4)}, ["student_bias", "(5,)", "(4,)"]),
        ({"teacher_logits": torch.zeros(3, 4)}, ["teacher_logits", "(3, 5)", "(3, 4)"]),
        ({"teacher_logits": None}, ["teacher", "teacher_logits", "[]"]),
        ({"teacher_hidden": H}, ["teacher", "['logits', 'hidden']"]),
        ({"teacher_bias": torch.zeros(5)}, ["teacher", "['logits', 'bias']"]),
        ({"teacher_logits": None, "teacher_hidden": H}, ["teacher_weight", "['hidden']"]),
        (
            {"teacher_logits": None, "teacher_hidden": H, "teacher_weight": W[:, :1]},
            ["teacher_weight", "(5, 2)", "(5, 1)"],
        ),
        ({"labels": None}, ["labels", "alpha", "0.9"]),
        ({"labels": Y[:2]}, ["labels", "(3,)", "(2,)"]),
        ({"labels": Y.int()}, ["labels", "int64", "int32"]),
        ({"labels": Y - 1}, ["labels", "0..4", "-1"]),
        ({"labels": Y + 5}, ["labels", "0..4", "5"]),
        ({"labels": V}, ["labels", "(3,)", "(3, 5)"]),
        ({"weights": torch.zeros(2)}, ["weights", "(3,)", "(2,)"]),
        ({"weights": Y}, ["weights", "floating-point", "int64"]),
        ({"weights": torch.ones(3, requires_grad=True)}, ["weights", "gradient"]),
        ({"temperature": 0}, ["temperature", "positive", "0"]),
        ({"temperature": torch.ones(3)}, ["temperature", "number", "tensor"]),
        ({"alpha": 1.5}, ["alpha", "[0, 1]", "1.5"]),
        ({"alpha": NAN}, ["alpha", "[0, 1]", "nan"]),
        ({"chunk": 0}, ["chunk", "at least 1", "0"]),
        ({"chunk": (4, 0)}, ["chunk", "at least 1", "0"]),
        ({"chunk": (1, 2, 3)}, ["chunk", "(1, 2, 3)"]),
        ({"beta": -0.1}, ["beta", "[0, 1]", "-0.1"]),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], words: list[str]) -> None:
    good: dict[str, Any] = {"student_hidden": H, "student_weight": W, "labels": Y, "teacher_logits": V}
    loss = chunked_jsd_loss if "beta" in change else chunked_kd_loss
    loss(**good)
    with pytest.raises(ValueError) as error:
        loss(**good | change)
    assert all(word in str(error.value) for word in words), str(error.value)
