"""Wrong answers to "multiverse": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "a sign for every cell",
        "chance_of_best",
        4,
        "signs.to(rows.dtype) @ rows / len(rows)",
        "(signs[:, :, None] * signs.roll(1, 1)[:, None, :].repeat(1, 1, 9)[:, :, : rows.shape[1]] * rows).mean(1)",
    ),
    ("chance gets no choice", "chance_of_best", 4, ".amax(1)", ".mean(1)"),
    (
        "the found draw is not counted",
        "chance_of_best",
        4,
        "(1 + (null >= found).sum()) / (1 + len(signs))",
        "(null >= found).double().mean()",
    ),
    ("wrong sign", "chance_of_best", 4, "null >= found", "null <= found"),
    (
        "chosen and reported on all seeds",
        "honest_best",
        2,
        "rows[half:].mean(0)[rows[:half].mean(0).argmax()]",
        "rows.mean(0).max()",
    ),
    ("reported on the half that chose", "honest_best", 2, "rows[half:]", "rows[:half]"),
    (
        "the largest of the second half",
        "honest_best",
        2,
        "rows[half:].mean(0)[rows[:half].mean(0).argmax()]",
        "rows[half:].mean(0).max()",
    ),
]
