# SPDX-License-Identifier: GPL-3.0-or-later
"""Muon for matrices and convolution kernels, AdamW for everything else, in one optimiser.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by its nearest semi-orthogonal matrix, found with a
few Newton-Schulz steps. All state is tensors, so a run can be resumed bit for bit.
"""

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 4
"""One fewer than usual: on a CPU the iteration is a good part of a small model's step."""
ADAPTIVE_NORM = "norm1.linear.", "norm2.linear.", "norm_out.linear."
"""Maps of the time embedding, which start at zero; AdamW moves them more gently."""


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `muon=True` hold parameters of two or more dimensions, flattened to `[out, rest]` for the update."""

    def __init__(self, groups, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8,
                 momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum,
                                  "weight_decay": weight_decay, "muon": False})

    @torch.no_grad()
    def step(self, closure=None):
        """One update of all groups. `closure` is not supported: the loop computes its gradients beforehand."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["muon"]:
                    self._muon(parameter, group)
                else:
                    self._adamw(parameter, group)

    def _muon(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]).flatten(1)
        rows, columns = update.shape
        update = _orthogonalised(update) * (0.2 * max(rows, columns) ** 0.5)  # the RMS of a typical AdamW update
        parameter.add_(update.view_as(parameter), alpha=-group["lr"])

    def _adamw(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        first, second = group["betas"]
        count = float(state["step"])
        mean = state["mean"].lerp_(parameter.grad, 1 - first)
        square = state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        scale = (square / (1 - second**count)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**count))


def _orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """About U V^T of `matrix` `[m, n]` = U S V^T, by quintic Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def build_optimiser(module: torch.nn.Module, *, name: str, learning_rate: float, betas: tuple[float, float],
                    weight_decay: float, matrix_learning_rate: float | None = None) -> torch.optim.Optimizer:
    """`name` "adamw" or "muon"; vectors are never decayed. The groups keep their first rate as `base_lr`."""
    trainable = [(key, value) for key, value in module.named_parameters() if value.requires_grad]
    gentle = {key for key, value in trainable
              if value.ndim < 2 or (name == "muon" and any(part in key for part in ADAPTIVE_NORM))}
    vectors = [value for key, value in trainable if key in gentle]
    matrices = [value for key, value in trainable if key not in gentle]
    groups = [{"params": vectors, "weight_decay": 0.0, "lr": learning_rate, "base_lr": learning_rate}]
    rate = matrix_learning_rate or learning_rate
    if name == "muon":
        groups.append({"params": matrices, "weight_decay": weight_decay, "muon": True, "lr": rate, "base_lr": rate})
    else:
        groups.append({"params": matrices, "weight_decay": weight_decay, "lr": rate, "base_lr": rate})
    groups = [group for group in groups if group["params"]]
    if name == "muon":
        return MuonAdamW(groups, betas=betas)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=1e-8)
