"""Wrong answers to "how-to-read": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("not paired", "paired_interval", 3, "float(d.std()) / math.sqrt(n)", "math.sqrt(float(a.var() + b.var()) / n)"),
    ("normal, not t", "paired_interval", 3, "stats.t.ppf((1 + level) / 2, n - 1)", "stats.norm.ppf((1 + level) / 2)"),
    ("one-sided", "paired_interval", 3, "(1 + level) / 2", "level"),
    ("the root of n is missing", "paired_interval", 3, " / math.sqrt(n)", ""),
    ("wrong sign", "paired_interval", 3, "d = a - b", "d = b - a"),
    ("against zero, not the smallest effect", "verdict", 2, "low > smallest", "low > 0"),
    (
        "a shrug for a finding",
        "verdict",
        2,
        '"not reproduced" if high < smallest else "inconclusive"',
        '"inconclusive"',
    ),
    ("few seeds judge too", "verdict", 1, "seeds < 5 or not low < high", "not low < high"),
    ("the middle decides", "verdict", 2, "if low > smallest", "if (low + high) / 2 > smallest"),
    ("Bonferroni", "holm_passes", 2, "risk / torch.arange(len(p), 0, -1, dtype=p.dtype)", "risk / len(p) + 0 * p"),
    ("nothing stops after a failure", "holm_passes", 2, ".long().cumprod(0).bool()", ""),
    ("uncorrected", "holm_passes", 2, "risk / torch.arange(len(p), 0, -1, dtype=p.dtype)", "risk + 0 * p"),
    ("in sorted order", "holm_passes", 2, "torch.zeros(len(p), dtype=torch.bool).scatter(0, order, so_far)", "so_far"),
]
