"""Wrong answers to "meta": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("a plain mean", "softmax_moves", 1, "(p * dz).sum(1, keepdim=True)", "dz.mean(1, keepdim=True)"),
    ("wrong sign", "softmax_moves", 2, "dz - (p * dz)", "dz + (p * dz)"),
    ("T is missing", "softmax_moves", 1, " / T", ""),
    (
        "a matrix for each example",
        "softmax_moves",
        1,
        "p * (dz - (p * dz).sum(1, keepdim=True)) / T",
        'torch.einsum("nkl,nl->nk", torch.diag_embed(p) - p[:, :, None] * p[:, None, :], dz) / T',
    ),
    (
        "the step is not in the graph",
        "through_the_step",
        4,
        "lesson, w, create_graph=True)[0]",
        "lesson, w, retain_graph=True)[0] + 0 * v.sum()",
    ),
    ("uphill", "through_the_step", 4, "w - rate * slope", "w + rate * slope"),
    ("the rate is missing", "through_the_step", 4, "rate * slope", "slope"),
    ("softmax twice", "through_the_step", 4, "p = torch.softmax(v, 1)", "p = torch.softmax(torch.softmax(v, 1), 1)"),
    ("a sum over the lesson", "through_the_step", 4, ".sum(1).mean()", ".sum()"),
    ("the teacher is detached in the lesson", "through_the_step", 4, "lesson = (p * ", "lesson = (p.detach() * "),
]
