"""Wrong answers to "distillation": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("T² is missing", "kd_rows", 3, "alpha * T**2 * soft", "alpha * soft"),
    ("T instead of T²", "kd_rows", 3, "T**2", "T"),
    ("the logarithm of a softmax", "kd_rows", 1, "(log_p - log_q)", "(log_p.exp().log() - log_q)"),
    (
        "softmax twice",
        "kd_rows",
        3,
        "torch.log_softmax(v.detach() / T, 1)",
        "torch.log_softmax(torch.softmax(v.detach(), 1) / T, 1)",
    ),
    ("KL over examples, not classes", "kd_rows", 3, "torch.log_softmax(z / T, 1)", "torch.log_softmax(z / T, 0)"),
    ("KL the wrong way round", "kd_rows", 3, "log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)"),
    ("the teacher is not detached", "kd_rows", 1, "v.detach()", "v"),
    ("a mean too many", "kd_rows", 3, "alpha * T**2 * soft", "alpha * T**2 * soft.mean()"),
    ("alpha on the label", "kd_rows", 3, "(1 - alpha) * hard + alpha *", "alpha * hard + (1 - alpha) *"),
    ("wrong sign", "soft_slope", 2, "T * (", "-T * ("),
    ("T is missing", "soft_slope", 2, "T * (", "("),
    ("T² instead of T", "soft_slope", 2, "T * (", "T**2 * ("),
    ("the factor the wrong way round", "heard_alpha", 2, "(1 - alpha) * T**2", "(1 - alpha) / T**2"),
    ("T instead of T²", "heard_alpha", 2, "T**2", "T"),
]
