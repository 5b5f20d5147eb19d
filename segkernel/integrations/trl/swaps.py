"""TRL: the functions that compute log-probs in its trainers, by release and fingerprint of their source.

TRL's trainers compute log-probs from hidden states with a fused LM head since 1.15, and from logits before.
"""

from __future__ import annotations

from segkernel.integrations.targets import Framework, Target
from segkernel.integrations.trl import heads, logits

UTILS = "trl.trainer.utils"
HEAD = "_ChunkedLogProbFunction"
ADD_HEAD = f"{UTILS}.add_fused_lm_head"
NEWEST = (1, 16)

FRAMEWORK = Framework(
    "trl",
    "trl",
    (
        Target(
            UTILS,
            HEAD,
            heads.fused_head,
            versions=((1, 15), NEWEST),
            known=frozenset({"6151eb3d3314bd5b", "afd40d2053fb5a85"}),
            sources=(ADD_HEAD,),
            example=heads.example_with_bias,
        ),
        Target(
            UTILS,
            HEAD,
            heads.head_with_entropy,
            versions=((1, 13), (1, 14)),
            known=frozenset({"372c7102c13f5d01", "4754459363a8f919"}),
            example=heads.example_with_bias,
        ),
        Target(
            UTILS,
            HEAD,
            heads.head_without_bias,
            versions=((1, 5), (1, 12)),
            known=frozenset({"96882885c3998656"}),
            example=heads.example_without_bias,
        ),
        Target(
            UTILS,
            HEAD,
            heads.head_without_softcap,
            versions=((1, 1), (1, 4)),
            known=frozenset({"7361e84a406035f9"}),
            example=heads.example_without_softcap,
        ),
        Target(
            UTILS,
            "_use_triton",
            heads.scores_valid_rows_only,
            versions=((1, 16), NEWEST),
            known=frozenset({"dfb9135052afd5de"}),
            sources=(ADD_HEAD,),
            everywhere=False,
        ),
        Target(
            UTILS,
            "selective_log_softmax",
            logits.selective_log_softmax,
            versions=((0, 18), NEWEST),
            known=frozenset(
                {
                    "9955dc27978c2152",  # 0.18
                    "e6f4ce6b28335f95",  # 0.19 to 0.24
                    "00a9962cff996b47",  # 0.25 to 0.28
                    "298eeb5c96ac0be2",  # 0.29 to 1.13
                    "6b4366128fbb2171",  # 1.14, 1.15
                    "325c92be4e2fbe83",  # 1.16
                }
            ),
            example=logits.example,
        ),
        Target(
            UTILS,
            "entropy_from_logits",
            logits.entropy_from_logits,
            versions=((0, 20), NEWEST),
            known=frozenset(
                {
                    "54a166b8c352349f",  # 0.20 to 0.22
                    "c3ff194939983be7",  # 0.23 to 1.13
                    "e814d4143dc0df4a",  # 1.14, 1.15
                    "e1d44af750d9a181",  # 1.16
                }
            ),
            example=lambda: logits.example()[:1],
        ),
        Target(
            UTILS,
            "selective_log_softmax_and_entropy",
            logits.selective_log_softmax_and_entropy,
            versions=((1, 14), NEWEST),
            known=frozenset({"c73b2f5aed63b4fb", "6aa8163385a217ec"}),
            example=logits.example,
        ),
    ),
)
