"""Wrong answers to "sampling": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("not corrected", "sampled_kl", 3, "a / chance * ", "a * "),
    ("drawn from the teacher, it thinks", "sampled_kl", 3, "a / chance * (a / b).log()", "(a / b).log()"),
    ("wrong sign", "sampled_kl", 3, "(a / b).log()", "(b / a).log()"),
    ("a sum, not a mean", "sampled_kl", 3, ".mean(1)", ".sum(1)"),
    (
        "the student is not corrected",
        "self_normalised",
        3,
        "torch.log_softmax(z - log_Q, 1)",
        "torch.log_softmax(z, 1)",
    ),
    ("corrected the wrong way", "self_normalised", 3, "t - log_Q", "t + log_Q"),
    (
        "the divergence the wrong way round",
        "self_normalised",
        3,
        "log_p.exp() * (log_p - log_q)",
        "log_q.exp() * (log_q - log_p)",
    ),
    (
        "over examples, not classes",
        "self_normalised",
        3,
        "torch.log_softmax(t - log_Q, 1)",
        "torch.log_softmax(t - log_Q, 0)",
    ),
    ("squares of tiny numbers", "effective_size", 1, "weights / weights.amax(1, keepdim=True)", "weights"),
    ("not squared above", "effective_size", 2, "w.sum(1).square()", "w.sum(1)"),
    (
        "the number of draws",
        "effective_size",
        2,
        "w.sum(1).square() / w.square().sum(1)",
        "torch.full_like(w[:, 0], w.shape[1])",
    ),
]
