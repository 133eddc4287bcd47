"""Wrong answers to "teachers": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "the largest probability, not the label's",
        "temperature_for",
        3,
        ".gather(1, y[:, None]).mean()",
        ".amax(1).mean()",
    ),
    ("the interval is halved the wrong way", "temperature_for", 3, "sure > target", "sure < target"),
    (
        "probabilities are tempered, not logits",
        "temperature_for",
        3,
        "torch.softmax(v / middle, 1)",
        "torch.softmax(torch.softmax(v, 1) / middle, 1)",
    ),
    ("too few steps", "temperature_for", 3, "range(200)", "range(8)"),
    ("alpha is missing", "spread_of_w", 3, "alpha * (1 - p)", "(1 - p)"),
    ("the standard deviation", "spread_of_w", 3, "w.max() - w.min()", "w.std()"),
    ("softmax twice", "spread_of_w", 3, "torch.softmax(v, 1)", "torch.softmax(torch.softmax(v, 1), 1)"),
    ("wrong sign", "spread_of_w", 3, "w.max() - w.min()", "w.min() - w.max()"),
]
