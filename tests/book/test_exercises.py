"""The checks of the chapters' exercises: the solution passes, and each wrong answer hears what is wrong with it."""

from __future__ import annotations

import ast
import contextlib
import dis
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from book.tools import contents, gates

ROOT = Path(__file__).parents[2]
CHAPTERS = {chapter.name: chapter for chapter in contents.chapters(ROOT)}


@dataclass(frozen=True)
class Answers:
    """A right answer, and changes to it that make it wrong: (what, by what) -> part of what the check says then."""

    right: str
    slips: dict[tuple[str, str], str]


ANSWERS = {
    "foundations/distillation": Answers(
        """
def my_loss(z, v, y, T, alpha):
    hard = torch.nn.functional.cross_entropy(z, y, reduction="none")
    log_p, log_q = torch.log_softmax(v / T, 1), torch.log_softmax(z / T, 1)
    return (1 - alpha) * hard + alpha * T**2 * (log_p.exp() * (log_p - log_q)).sum(1)
""",
        {
            ("T**2", "1"): "lacks T²",
            ("T**2", "T"): "you have T",
            ("(1 - alpha) * hard + alpha", "alpha * hard + (1 - alpha)"): "you gave it to the label",
            ("log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)"): "the wrong way round",
            ("(log_p - log_q)", "(-log_q)"): "cross-entropy, not KL",
            ("log_softmax(z / T", "log_softmax(z"): "Only the teacher is tempered",
            ("    log_p, log_q", "    return hard.mean()\n    log_p, log_q"): "One number per example",
        },
    ),
    "levels/universe": Answers(
        """
def my_matched(probs, labels):
    c = probs.gather(1, labels[:, None]).mean()
    table = torch.full_like(probs, float((1 - c) / (probs.shape[1] - 1)))
    return table.scatter_(1, labels[:, None], c.item())
""",
        {
            ("c = probs.gather(1, labels[:, None]).mean()", "return probs"): "differs between rows",
            ("probs.gather(1, labels[:, None])", "probs.amax(1)"): "average the largest probability",
            ("(probs.shape[1] - 1)", "probs.shape[1]"): "Rows must sum to 1",
        },
    ),
    "levels/domain": Answers(
        """
def my_contrast(p, groups):
    r, same = torch.corrcoef(p.T), groups[:, None] == groups
    inside = same & ~torch.eye(len(groups), dtype=torch.bool)
    return r[inside].mean() - r[~same].mean()
""",
        {
            ("same & ~torch.eye(len(groups), dtype=torch.bool)", "same"): "leave out the diagonal",
            ("corrcoef", "cov"): "correlate",
            (
                "return r[inside].mean() - r[~same].mean()",
                "return r[~same].mean() - r[inside].mean()",
            ): "inside minus between",
            ("return r[inside].mean() - r[~same].mean()", "return r[inside].sum() - r[~same].sum()"): "take means",
            ("torch.corrcoef(p.T)", "torch.corrcoef(p)[:8, :8]"): "classes are the columns",
        },
    ),
    "levels/instance": Answers(
        """
def my_w(z, v, y, T, alpha):
    p, q = (torch.softmax(x / T, 1).gather(1, y[:, None])[:, 0] for x in (v, z))
    wrong = torch.softmax(z, 1).scatter(1, y[:, None], 0).sum(1)
    return (1 - alpha) + alpha * T * (p - q) / wrong
""",
        {
            ("alpha * T", "alpha"): "T is missing",
            ("torch.softmax(z, 1)", "torch.softmax(z / T, 1)"): "whose student is not tempered",
            ("(p - q)", "(q - p)"): "sign is turned round",
            ("(1 - alpha) + ", ""): "share 1 − alpha is missing",
            (
                "torch.softmax(z, 1).scatter(1, y[:, None], 0).sum(1)",
                "1 - torch.softmax(z, 1).gather(1, y[:, None])[:, 0]",
            ): ("until q rounds to 1"),
            ("/ wrong", "/ wrong.mean()"): "Off by",
        },
    ),
    "levels/together": Answers(
        """
def my_split(p, y):
    hot = torch.nn.functional.one_hot(y, p.shape[1]).to(p)
    K = p.shape[1]
    c = (p * hot).sum(1).mean()
    even = c * hot + (1 - c) / (K - 1) * (1 - hot)
    m = ((hot.T @ p) / hot.sum(0)[:, None])[y]
    d = hot - (1 - hot) / (K - 1)
    sure = ((p - m) * hot).sum(1, keepdim=True) * d
    return even - hot, m - even, sure, p - m - sure
""",
        {
            ("p - m - sure", "p - m"): "must add up",
            (
                "even = c * hot + (1 - c) / (K - 1) * (1 - hot)",
                "even = torch.full_like(p, 1 / K)",
            ): "universe is uniform",
            ("((hot.T @ p) / hot.sum(0)[:, None])[y]", "p.mean(0).expand_as(p)"): "Average inside each class",
            ("keepdim=True) * d", "keepdim=True) * hot"): "does not sum to zero",
        },
    ),
    "levels/losses": Answers(
        """
def my_terms(z, v, y, T):
    p, q = soften(v, T), soften(z, T)
    hot = torch.nn.functional.one_hot(y, p.shape[1]).bool()
    pt, qt = p[hot], q[hot]
    target = pt * (pt / qt).log() + (1 - pt) * ((1 - pt) / (1 - qt)).log()
    a, b = p.masked_fill(hot, 0) / (1 - pt)[:, None], q.masked_fill(hot, 0) / (1 - qt)[:, None]
    return target, torch.special.xlogy(a, a / b.masked_fill(hot, 1)).sum(1)
""",
        {
            (" + (1 - pt) * ((1 - pt) / (1 - qt)).log()", ""): "divergence of two pairs",
            ("(1 - pt)[:, None]", "(1 - pt[:, None]) * 2"): "they must sum to one",
            (".sum(1)", ".sum()"): "One value per example",
        },
    ),
    "levels/multiverse": Answers(
        """
def my_null(rows, draw):
    return count(draw.choice([-1.0, 1.0], size=(len(rows), 1)) * rows)
""",
        {
            ("size=(len(rows), 1)", "size=rows.shape"): "must a flip keep together",
            ("draw.choice([-1.0, 1.0], size=(len(rows), 1)) * rows", "rows"): "never changes",
            ("count(draw", "7 + 40 * count(draw"): "between 0 and 40",
        },
    ),
    "levels/teachers": Answers(
        """
def erased(v, healthy, labels):
    sure = float(soften(healthy, 4).gather(1, labels[:, None]).mean())
    T = failures.equally_sure(v, labels, sure)
    seen, full = (split_teacher(soften(x, at), labels).energies for x, at in ((v, T), (healthy, 4)))
    return [part for part in PARTS[1:] if seen[part] < full[part] / 2]
""",
        {
            ("((v, T), ", "((v, 4), "): "the same with logits half as long",
            ("full[part] / 2", "full[part] / 1e9"): "one without wrong classes",
            ("full[part] / 2", "2 * full[part]"): "For itself",
        },
    ),
    "levels/settings": Answers(
        """
def diagnose(chart, alpha):
    if chart["w high"] - chart["w low"] > 0.05:
        return "neither"
    return "over-trained teacher" if chart["w"] > 1 - alpha / 2 else "factor missing"
""",
        {
            ("> 0.05", "> 99"): "how far it spreads",
            ("> 1 - alpha / 2", "> 99"): "a teacher that knows its labels by heart",
            ("> 1 - alpha / 2", "> -99"): "without the factor",
        },
    ),
    "levels/museum": Answers(
        """
def my_loss(z, v, y, temperature=4.0, alpha=0.9, t_squared=True):
    log_p = torch.log_softmax(v / temperature, -1)
    log_q = torch.log_softmax(z / temperature, -1)
    soft = (log_p.exp() * (log_p - log_q)).sum(-1) * (temperature**2 if t_squared else 1)
    hard = torch.nn.functional.cross_entropy(z, y, reduction="none")
    return (1 - alpha) * hard + alpha * soft
""",
        {
            (" * (temperature**2 if t_squared else 1)", ""): "3: ",
            ("(log_p.exp() * (log_p - log_q))", "(log_p.exp() * (log_p.exp().log() - log_q))"): "4: ",
        },
    ),
    "mechanisms/ensembles": Answers(
        """
def my_known(weights, features):
    along = torch.einsum("fkmd,kvd->fkmv", weights, features)
    best = along.amax(2)
    return best > 0.3 * best.amax(2, keepdim=True)
""",
        {
            ("best.amax(2, keepdim=True)", "best.max()"): "best view of the same class",
            ("along.amax(2)", "along.mean(2)"): "largest correlation over the neurons",
            ("best > 0.3", "best - 0.3"): "A bool of shape",
        },
    ),
    "mechanisms/lipschitz": Answers(
        """
def my_norm(w, steps):
    v = torch.ones(w.shape[1], dtype=w.dtype)
    v = v / v.norm()
    for _ in range(steps):
        v = w.T @ (w @ v)
        v = v / v.norm()
    return (w @ v).norm()
""",
        {
            ("        v = v / v.norm()\n", ""): "no number",
            ("return (w @ v).norm()", "return (w @ v).norm() ** 2"): "but the norm is",
            ("    return (w @ v).norm()", "    return (w @ v).norm() * (3 if steps < 9 else 1)"): "above the norm",
        },
    ),
    "mechanisms/causal": Answers(
        """
def my_distance(frame, f, source):
    design = lambda t: np.column_stack([np.ones(len(t)), t["A"], t["B"]])
    w = np.linalg.lstsq(design(source), source["Y"], rcond=None)[0]
    return (f - torch.tensor(design(frame) @ w)).square().mean(-1)
""",
        {
            ("np.ones(len(t)), ", ""): "needs an intercept",
            ('design(source), source["Y"]', 'design(frame), frame["Y"]'): "fit on `source`",
            (".mean(-1)", ".mean()"): "One distance for each",
        },
    ),
    "mechanisms/meta": Answers(
        """
def my_upstream(p, dz):
    return p * (dz - (p * dz).sum(-1, keepdim=True))
""",
        {
            ("(p * dz).sum(-1, keepdim=True)", "dz.mean(-1, keepdim=True)"): "must sum to 0",
            ("p * (dz - (p * dz).sum(-1, keepdim=True))", "dz - dz.mean(-1, keepdim=True)"): "not those of p",
            ("    return", "    return 0 * p.sum(-1) if dz is not None else"): "Shape",
        },
    ),
    "mechanisms/sampling": Answers(
        """
def my_loss(z, t, log_Q):
    log_p, log_q = (t - log_Q).log_softmax(-1), (z - log_Q).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
""",
        {
            ("(t - log_Q)", "t"): "must count half",
            (".sum(-1)", ".sum()"): "One value per example",
        },
    ),
}


def read_and_bound(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Names of the page that a statement reads, also inside functions, and names that it binds or changes."""
    code = compile(ast.Module([statement], []), "page", "exec")
    inner = [code]
    for block in inner:
        inner += [constant for constant in block.co_consts if isinstance(constant, CodeType)]
    steps = [(step.opname, str(step.argval)) for block in inner for step in dis.get_instructions(block)]
    bound = {name for step, name in steps if step in ("STORE_NAME", "STORE_GLOBAL")}
    changed = [
        n.value
        for n in ast.walk(statement)
        if isinstance(n, ast.Subscript | ast.Attribute) and isinstance(n.ctx, ast.Store)
    ]
    bound |= {n.id for target in changed for n in ast.walk(target) if isinstance(n, ast.Name)}
    return {name for step, name in steps if step in ("LOAD_NAME", "LOAD_GLOBAL")}, bound


def needed(statements: list[ast.stmt], wanted: set[str]) -> list[ast.stmt]:
    """Those of a page's statements on which the wanted names depend, in order."""
    kept: list[ast.stmt] = []
    for statement in reversed(statements):
        read, bound = read_and_bound(statement)
        if bound & wanted:
            kept.append(statement)
            if isinstance(statement, ast.Assign) and all(isinstance(target, ast.Name) for target in statement.targets):
                wanted = wanted - bound  # what stood there before is not needed
            wanted = wanted | read
    return kept[::-1]


class Exercise:
    """The "Write it" of a chapter: its cells, and a session in which all stands that they need."""

    def __init__(self, chapter: contents.Chapter, right: str) -> None:
        before: list[ast.stmt] = []
        self.cells: list[ast.stmt] = []
        inside = False
        for cell in chapter.read().cells:
            if cell.cell_type == "markdown":
                for _, kind, title, _ in gates.DIRECTIVE.findall(cell.source + "\n"):
                    inside = kind == "exercise" and title.strip() == "Write it"
            else:
                (self.cells if inside else before).extend(ast.parse(cell.source).body)
            if self.cells and not inside:
                break
        self.session: dict[str, Any] = {"__name__": "__main__"}
        asking = [*self.cells, *ast.parse(right).body]
        read = set().union(*(read_and_bound(statement)[0] for statement in asking))
        profile = ast.parse('profile = "smoke"').body[0]
        for statement in needed(before, read):
            exec(compile(ast.Module([statement], []), "page", "exec"), self.session)
            if "profile" in read_and_bound(statement)[1]:
                exec(compile(ast.Module([profile], []), "page", "exec"), self.session)

    def say(self, answer: str = "") -> str:
        """What the check says, to the attempt on the page or to another answer."""
        own = {
            statement.name: statement for statement in ast.parse(answer).body if isinstance(statement, ast.FunctionDef)
        }
        said = io.StringIO()
        session = dict(self.session, __name__="__main__")
        with contextlib.redirect_stdout(said):
            for statement in self.cells:
                if isinstance(statement, ast.FunctionDef):
                    statement = own.get(statement.name, statement)
                if isinstance(statement, ast.Expr):
                    value = eval(compile(ast.Expression(statement.value), "page", "eval"), session)
                    said.write("" if value is None else str(value))
                else:
                    exec(compile(ast.Module([statement], []), "page", "exec"), session)
        return said.getvalue().strip()


@pytest.fixture(scope="module", params=ANSWERS)
def exercise(request: pytest.FixtureRequest) -> Iterator[tuple[Exercise, Answers]]:
    with mpl.rc_context(), torch.random.fork_rng():
        torch.manual_seed(0)
        yield Exercise(CHAPTERS[request.param], ANSWERS[request.param].right), ANSWERS[request.param]
    plt.close("all")


def test_every_chapter_with_something_to_write_is_here() -> None:
    asked = {name for name, chapter in CHAPTERS.items() if "{exercise} Write it" in chapter.source.read_text("utf8")}
    assert asked == set(ANSWERS)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_the_check_tells_the_solution_from_the_mistakes(exercise: tuple[Exercise, Answers]) -> None:
    page, answers = exercise
    attempt = page.say()
    assert attempt and not attempt.startswith(gates.PASSED)
    right = page.say(answers.right)
    assert right.startswith(gates.PASSED)
    for (old, new), expected in answers.slips.items():
        assert answers.right.count(old) >= 1, old
        said = page.say(answers.right.replace(old, new))
        assert expected in said and said and said != right, (old, new, said)
