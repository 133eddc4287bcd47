"""Wrong answers to "settings": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("the spread is forgotten", "diagnosis", 4, "if high - low > 0.15:", "if high - low > 150:"),
    ("a fixed threshold", "diagnosis", 4, "1 - alpha / 2", "0.3"),
    ("the two the wrong way round", "diagnosis", 4, "middle > 1 - alpha / 2", "middle < 1 - alpha / 2"),
    ("outliers decide", "diagnosis", 4, "[0.05, 0.5, 0.95]", "[0.0, 0.5, 1.0]"),
    ("wrong sign", "first_step", 2, "-lr *", "lr *"),
    ("a plain gradient step", "first_step", 2, " / (g.abs() + eps)", ""),
    ("eps is missing", "first_step", 2, "(g.abs() + eps)", "g.abs()"),
    ("eps under the root", "first_step", 2, "(g.abs() + eps)", "(g.square() + eps).sqrt()"),
]
