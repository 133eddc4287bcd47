"""Wrong answers to "museum": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("T² is missing", "repaired", 3, "T**2 * ", ""),
    ("softmax twice", "repaired", 4, "torch.log_softmax(z / T, -1)", "torch.log_softmax(torch.softmax(z, -1) / T, -1)"),
    ("a mean over classes", "repaired", 4, ".sum(-1)", ".mean(-1)"),
    ("minus infinity is not caught", "repaired", 1, ".masked_fill(out, 0.0)", ""),
    ("over the wrong axis", "repaired", 3, "torch.log_softmax(z / T, -1)", "torch.log_softmax(z / T, 1)"),
    ("padding counts", "real_mean", 2, "mask.sum()", "mask.numel()"),
    (
        "every sequence counts alike",
        "real_mean",
        2,
        "values.masked_fill(~mask, 0.0).sum() / mask.sum()",
        "(values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)).mean()",
    ),
    ("nan times 0", "real_mean", 2, "values.masked_fill(~mask, 0.0)", "(values * mask)"),
    ("every piece counts alike", "mean_of_pieces", 2, "(means * sizes).sum() / sizes.sum()", "means.mean()"),
    ("divided by the number of pieces", "mean_of_pieces", 2, "/ sizes.sum()", "/ len(sizes)"),
]
