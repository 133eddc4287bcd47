"""Wrong answers to "causal": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("no intercept", "causal_teacher", 3, "torch.cat([torch.ones(len(t), 1, dtype=t.dtype), t], 1)", "t"),
    (
        "fitted on the new inputs",
        "causal_teacher",
        3,
        "torch.linalg.lstsq(design(x), y[:, None])",
        "torch.linalg.lstsq(design(new), y[: len(new), None])",
    ),
    ("read on the source", "causal_teacher", 3, "(design(new) @ w)[:, 0]", "(design(x) @ w)[:, 0]"),
    ("before the flip", "error_after_flip", 3, "(1 + k) ** 2 + (2 * k * m) ** 2 + k**2 * s", "(1 - k) ** 2 + k**2 * s"),
    ("wrong sign", "error_after_flip", 3, "(1 + k) ** 2", "(1 - k) ** 2"),
    ("the noise is forgotten", "error_after_flip", 3, " + k**2 * s", ""),
    ("the score's sign", "chosen_teacher", 2, "unit(-scores)", "unit(scores)"),
    ("nothing is normalised", "chosen_teacher", 2, "(x - x.min()) / (x.max() - x.min())", "x"),
    (
        "the weight is on the error",
        "chosen_teacher",
        2,
        "unit(errors) + weight * unit(-scores)",
        "weight * unit(errors) + unit(-scores)",
    ),
]
