"""Wrong answers to "losses": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    (
        "the wrong classes are not rescaled",
        "two_terms",
        4,
        "a = torch.log_softmax((v / T).scatter(1, at, -torch.inf), 1).scatter(1, at, 0.0)",
        "a = log_p.scatter(1, at, 0.0)",
    ),
    ("wrong sign", "two_terms", 4, "a.exp() * (a - b)", "a.exp() * (b - a)"),
    (
        "1 - p by subtraction",
        "two_terms",
        1,
        "a = torch.log_softmax((v / T).scatter(1, at, -torch.inf), 1).scatter(1, at, 0.0)",
        "a = (torch.softmax(v / T, 1) / (1 - torch.softmax(v / T, 1).gather(1, at))).log().scatter(1, at, 0.0)",
    ),
    ("the student is not tempered", "two_terms", 3, "torch.log_softmax(z / T, 1)", "torch.log_softmax(z, 1)"),
    ("T² is missing", "standardised_kl", 3, "T**2 * ", ""),
    (
        "softmax twice",
        "standardised_kl",
        3,
        "torch.log_softmax(score(v) / T, 1)",
        "torch.log_softmax(torch.softmax(score(v) / T, 1), 1)",
    ),
    (
        "divided by K - 1",
        "standardised_kl",
        3,
        "centred.square().mean(1, keepdim=True).sqrt()",
        "x.std(1, keepdim=True)",
    ),
    ("over examples, not classes", "standardised_kl", 3, "x.mean(1, keepdim=True)", "x.mean(0, keepdim=True)"),
    ("wrong sign", "correlation_gap", 2, "1 - (a * b)", "1 + (a * b)"),
    (
        "a cosine, not a correlation",
        "correlation_gap",
        2,
        "p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)",
        "p, q",
    ),
    ("over the whole table", "correlation_gap", 2, "(a.norm(dim=1) * b.norm(dim=1))", "(a.norm() * b.norm())"),
]
