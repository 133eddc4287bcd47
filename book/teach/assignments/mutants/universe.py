"""Wrong answers to "universe": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "one mean for all classes",
        "class_matched",
        3,
        "(total / count)[labels][:, None]",
        "true.mean().expand(n)[:, None]",
    ),
    ("each example its own", "class_matched", 3, "(total / count)[labels][:, None]", "true[:, None]"),
    (
        "the largest probability, not the label's",
        "class_matched",
        3,
        "probs.gather(1, labels[:, None])[:, 0]",
        "probs.amax(1)",
    ),
    ("the rest over all K classes", "class_matched", 3, "(1 - sure) / (k - 1)", "(1 - sure) / k"),
    ("wrong sign", "smoothing_of", 2, "(1 - p)", "(p - 1)"),
    ("K / (K - 1) is missing", "smoothing_of", 2, " * K / (K - 1)", ""),
    ("alpha is missing", "smoothing_of", 2, "alpha * ", ""),
    (
        "the wrong power",
        "resting",
        2,
        "c**T / (c**T + (K - 1) * other**T)",
        "c**(1 / T) / (c**(1 / T) + (K - 1) * other**(1 / T))",
    ),
    ("the table's own confidence", "resting", 2, "return c**T / (c**T + (K - 1) * other**T)", "return c"),
    ("one wrong class instead of K - 1", "resting", 2, "(K - 1) * other**T", "other**T"),
]
