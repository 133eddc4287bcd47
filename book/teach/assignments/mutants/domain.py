"""Wrong answers to "domain": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "the example's own row is in the mean",
        "others_mean",
        2,
        "(total - probs) / (count - 1).clamp(min=1)",
        "total / count",
    ),
    (
        "the mean over all examples",
        "others_mean",
        3,
        "(labels[:, None] == labels).to(probs.dtype)",
        "torch.ones(len(labels), len(labels), dtype=probs.dtype)",
    ),
    ("divided by all, not by the others", "others_mean", 2, "(count - 1).clamp(min=1)", "count"),
    (
        "alone in its class, and lost",
        "others_mean",
        1,
        "(count - 1).clamp(min=1), probs)",
        "(count - 1).clamp(min=1), 0 * probs)",
    ),
    ("products, not cosines", "cosine_targets", 3, "rows / rows.norm(dim=1, keepdim=True)", "rows"),
    ("the label's own cosine takes part", "cosine_targets", 3, "cosine.masked_fill(own, -torch.inf)", "cosine"),
    ("the temperature multiplies", "cosine_targets", 3, "/ tau", "* tau"),
    ("softmax over the wrong axis", "cosine_targets", 3, "-torch.inf), 1)", "-torch.inf), 0)"),
    ("the mass, not its share", "family_share", 2, " / wrong.sum(1)", ""),
    ("the label counts too", "family_share", 2, "probs.scatter(1, labels[:, None], 0.0)", "probs"),
    (
        "a ratio of means",
        "family_share",
        2,
        "((wrong * family).sum(1) / wrong.sum(1)).mean()",
        "(wrong * family).sum() / wrong.sum()",
    ),
]
