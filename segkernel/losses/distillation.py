"""Reverse-KL distillation, and the extrapolated teacher of AlignDistil (arXiv 2503.02832)."""

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel.ops.token_divergences import token_divergences


def adaptive_teacher(
    dpo_logits: Tensor, reverse_dpo_logits: Tensor, *, strength: float = 20.0, floor: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Teacher of AlignDistil: DPO logits extrapolated away from the reverse DPO model's, per token.

    `teacher = dpo + alpha_t * (dpo - reverse)` with `alpha_t = strength * TVD_t + floor`, where
    `TVD_t = 1/2 * sum_v |p_dpo - p_reverse|` is the total variation distance of the two distributions. Where they
    agree, the preference carries no information about the token and the teacher equals the DPO model.

    Args:
        dpo_logits: `[N, V]`, of the model trained by DPO. Any floating dtype; computed in float32 (float64
            for float64).
        reverse_dpo_logits: `[N, V]`, of the model trained by DPO with chosen and rejected exchanged.
        strength: extrapolation per unit of total variation distance. The authors' scripts multiply the unhalved sum
            by 10, which is 20 here, off-policy, and by 15 on-policy.
        floor: extrapolation where the two distributions are the same; positive.

    Returns:
        `(teacher_logits, weights)`: `[N, V]`, and `alpha_t`, `[N]`.

    Raises:
        ValueError: a negative `strength`, a `floor` that is not positive, or shapes that differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import adaptive_teacher
        >>> dpo, reverse = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> teacher, weights = adaptive_teacher(dpo, reverse, strength=2.0, floor=0.5)
        >>> weights  # TVD 0 and (e - 1) / (e + 1)
        tensor([0.5000, 1.4242])
        >>> teacher
        tensor([[ 1.0000,  0.0000],
                [ 2.4242, -1.4242]])
    """
    _validate.not_negative("strength", strength)
    _validate.positive("floor", floor)
    _tensors.same_shape(dpo_logits=dpo_logits, reverse_dpo_logits=reverse_dpo_logits)
    dtype = _compute_dtype(dpo_logits, reverse_dpo_logits)
    dpo, reverse = dpo_logits.to(dtype), reverse_dpo_logits.to(dtype)
    distance = token_divergences(dpo.detach(), reverse.detach(), kind="tv").divergence
    weights = strength * distance + floor
    # An entry that both models exclude with -inf stays excluded: -inf - -inf would be NaN.
    difference = (dpo - reverse).masked_fill(dpo == reverse, 0.0)
    return dpo + weights[:, None] * difference, weights


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """`KL(student || teacher)` of each token's distribution: the reverse KL, whose first argument is trained.

    Args:
        student_logits: `[N, V]`; carries the gradient. Any floating dtype; computed in float32 (float64
            for float64).
        teacher_logits: `[N, V]`; constants.

    Returns:
        `[N]`, in nats.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import distillation_loss
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))  # log((1 + e) / 2) - 1/2
        tensor([0.1201])
    """
    _tensors.same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    student, teacher = student_logits, teacher_logits.detach()
    if student.dtype is not teacher.dtype:
        dtype = _compute_dtype(student, teacher)
        student, teacher = student.to(dtype), teacher.to(dtype)
    # Entries that the student excludes with -inf contribute 0, even if the teacher is -inf, too.
    return token_divergences(student, teacher).divergence


def _compute_dtype(*logits: Tensor) -> torch.dtype:
    """float64 if one of the tensors is, otherwise float32."""
    return torch.float64 if any(each.dtype is torch.float64 for each in logits) else torch.float32


def aligndistil_loss(
    student_logits: Tensor,
    dpo_logits: Tensor,
    reverse_dpo_logits: Tensor,
    *,
    beta: float = 0.1,
    strength: float = 20.0,
    floor: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """AlignDistil loss, one value per token: `beta / alpha_t * KL(student || teacher_t)`, see `adaptive_teacher`.

    Equivalent to RLHF with the reward `beta * log(pi_dpo / pi_reverse)` and a KL penalty `beta / alpha_t` toward the
    DPO model.

    Args:
        student_logits: `[N, V]`, of the policy; carries the gradient.
        dpo_logits: `[N, V]`, of the model trained by DPO.
        reverse_dpo_logits: `[N, V]`, of the model trained by DPO with chosen and rejected exchanged.
        beta: DPO's beta, with which both were trained; positive.
        strength: as in `adaptive_teacher`.
        floor: as in `adaptive_teacher`.

    Returns:
        `(losses, weights)`, each `[N]`; `weights` is `alpha_t`.

    Raises:
        ValueError: `beta` is not positive, and the errors of `adaptive_teacher`.

    Example:
        >>> import torch
        >>> from segkernel.losses import aligndistil_loss
        >>> same = torch.tensor([[0.0, 1.0]])
        >>> aligndistil_loss(torch.zeros(1, 2), same, same, beta=0.1, floor=0.5)  # 0.1 / 0.5 * KL
        (tensor([0.0240]), tensor([0.5000]))
    """
    _validate.positive("beta", beta)
    with torch.no_grad():
        teacher, weights = adaptive_teacher(dpo_logits, reverse_dpo_logits, strength=strength, floor=floor)
    return beta / weights * distillation_loss(student_logits, teacher), weights
