"""Wrong answers to "lipschitz": what is wrong, in which task, the points it must lose, and the slip in the reference."""

MUTANTS = [
    ("nothing is normalised in the loop", "norm_of", 3, "        v = v / v.norm()\n    return", "    return"),
    ("the start has another length", "norm_of", 1, "v = start / start.norm()", "v = start"),
    ("one step without the transpose back", "norm_of", 2, "return (w @ v).norm()", "return (w.T @ (w @ v)).norm()"),
    ("the Frobenius norm", "norm_of", 3, "return (w @ v).norm()", "return w.norm()"),
    ("the sum of the norms", "product_of_norms", 2, "bound * (w @ v).norm()", "bound + (w @ v).norm()"),
    (
        "the norm of the product",
        "product_of_norms",
        2,
        "    for w in weights:\n",
        "    for w in [torch.linalg.multi_dot(weights[::-1])]:\n",
    ),
    ("Frobenius norms", "product_of_norms", 2, "(w @ v).norm()", "w.norm()"),
    ("the slopes of a sum over classes", "jacobian_distance", 3, "gap[:, k].sum()", "gap.sum() / gap.shape[1] ** 0.5"),
    ("the difference of the squares", "jacobian_distance", 3, "gap = f(x) - h(x)", "gap = f(x)"),
    ("not squared", "jacobian_distance", 3, "slope.square().sum(1)", "slope.norm(dim=1)"),
]
