"""Wrong answers to "instance": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("wrong sign", "factor", 4, "(1 - alpha) + alpha * T", "(1 - alpha) - alpha * T"),
    ("T is missing", "factor", 3, "alpha * T * difference", "alpha * difference"),
    ("T² instead of T", "factor", 3, "alpha * T * difference", "alpha * T**2 * difference"),
    ("the denominator is tempered", "factor", 3, "difference / others", "difference / q_others"),
    (
        "1 - q by subtraction",
        "factor",
        1,
        "torch.softmax(z, 1).scatter(1, at, 0.0).sum(1)",
        "1 - torch.softmax(z, 1).gather(1, at)[:, 0]",
    ),
    ("softmax twice", "factor", 4, "torch.softmax(v / T, 1)", "torch.softmax(torch.softmax(v / T, 1), 1)"),
    ("over examples, not classes", "factor", 4, "torch.softmax(v / T, 1)", "torch.softmax(v / T, 0)"),
    ("alpha the wrong way round", "turning_point", 2, "1 - alpha * (1 - p)", "1 - (1 - alpha) * (1 - p)"),
    ("wrong sign", "turning_point", 2, "1 - alpha", "1 + alpha"),
    ("not shuffled", "shuffled_confidence", 2, "[order]", ""),
    (
        "whole rows shuffled, labels too",
        "shuffled_confidence",
        2,
        ".scatter(1, y[:, None], sure)",
        ".scatter(1, y[order][:, None], sure)",
    ),
]
