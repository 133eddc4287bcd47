"""Wrong answers to "ensembles": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "logits are averaged",
        "ensemble_log_probs",
        2,
        "log_p.logsumexp(0) - math.log(len(logits))",
        "torch.log_softmax(logits.mean(0) / T, 1)",
    ),
    ("the sum, not the mean", "ensemble_log_probs", 3, " - math.log(len(logits))", ""),
    (
        "softmax over examples",
        "ensemble_log_probs",
        3,
        "torch.log_softmax(logits / T, 2)",
        "torch.log_softmax(logits / T, 1)",
    ),
    (
        "the logarithm of a mean",
        "ensemble_log_probs",
        1,
        "log_p.logsumexp(0) - math.log(len(logits))",
        "log_p.exp().mean(0).log()",
    ),
    ("one network only", "missed", 2, " ** networks", ""),
    ("known, not missed", "missed", 2, "return (1 - 1 / views) ** networks", "return 1 - (1 - 1 / views) ** networks"),
    ("the best of all classes", "known_views", 2, "best.amax(2, keepdim=True)", "best.max()"),
    ("the mean over neurons", "known_views", 2, "along.amax(2)", "along.mean(2)"),
    ("wrong sign", "known_views", 2, "best > share", "best < share"),
]
