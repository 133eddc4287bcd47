"""Wrong answers to "together": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("a uniform universe", "energies", 4, "(1 - sure) / (k - 1) * (1 - hot)", "(1 - sure) / k"),
    (
        "each example its own confidence in the universe",
        "energies",
        4,
        "(probs * hot).sum(1).mean()",
        "(probs * hot).sum(1, keepdim=True)",
    ),
    (
        "one mean row for all classes",
        "energies",
        4,
        "(hot.T @ probs / hot.sum(0)[:, None])[labels]",
        "probs.mean(0).expand(n, k)",
    ),
    ("the confidence is not taken from the others", "energies", 3, "hot - (1 - hot) / (k - 1)", "hot"),
    ("lengths, not squares", "energies", 4, ".square().sum(1).mean()", ".square().sum(1).sqrt().mean()"),
    ("mean over classes too", "energies", 4, ".square().sum(1).mean()", ".square().mean()"),
    ("the label is one of the k", "best_guesses", 2, "probs.scatter(1, at, -1.0)", "probs"),
    ("the rest is dropped", "best_guesses", 2, "torch.where(keep, probs, rest)", "torch.where(keep, probs, 0 * rest)"),
    (
        "the smallest are kept",
        "best_guesses",
        2,
        "wrong.topk(k, dim=1)",
        "wrong.scatter(1, at, 2.0).topk(k, dim=1, largest=False)",
    ),
    (
        "entering first only",
        "shares",
        2,
        "((a - none) + (both - b)) / 2, ((b - none) + (both - a)) / 2",
        "a - none, both - a",
    ),
    ("wrong sign", "shares", 2, "((a - none) + (both - b)) / 2", "((a - none) - (both - b)) / 2"),
]
