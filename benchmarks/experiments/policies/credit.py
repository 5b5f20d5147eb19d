"""Credit per token: the tokens that a policy was trained on, against the known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES


class TrainedResponse(NamedTuple):
    """A training response: loss mask, true credit per token, and the sign of its verdict (+1 chosen, -1 rejected).

    The credit is `None` where it is not known.
    """

    mask: Sequence[bool]
    credit: Sequence[int] | None
    sign: int


def responses_of_pairs(
    rows: Iterable[Mapping[str, Any]], credits: Iterable[Mapping[str, Sequence[int] | None]]
) -> list[TrainedResponse]:
    """Both sides of every pair, with the masks of the trainer's rows; without a mask every token counts.

    Args:
        rows: rows with `<side>_ids`, and `<side>_mask` if the loss has one.
        credits: true credit per token of each side, or `None`.
    """
    responses = []
    for row, credit in zip(rows, credits, strict=True):
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            mask = row.get(f"{side}_mask", [True] * len(row[f"{side}_ids"]))
            responses.append(TrainedResponse(mask, credit[side], sign))
    return responses


def credit_measures(responses: Sequence[TrainedResponse]) -> dict[str, float]:
    """Share of tokens trained on, agreement of the mask with the true credit, and the agreement of a full mask.

    A mask agrees where it keeps exactly the tokens whose credit has the sign of their response's verdict. Without the
    true credit there is only the share.

    Example:
        >>> credit_measures([TrainedResponse([True, True, False, False], [1, -1, -1, -1], +1)])
        {'tokens_trained': 0.5, 'mask_agreement': 0.75, 'agreement_of_everything': 0.25}
        >>> credit_measures([TrainedResponse([True, True, False, False], None, +1)])
        {'tokens_trained': 0.5}
    """
    agree = everything = total = 0
    for mask, credit, sign in responses:
        if credit is None:
            return {"tokens_trained": kept_share(responses)}
        for trained, true in zip(mask, credit, strict=True):
            agree += trained == (true == sign)
            everything += true == sign
            total += 1
    return {
        "tokens_trained": kept_share(responses),
        "mask_agreement": agree / total,
        "agreement_of_everything": everything / total,
    }


def true_segments(responses: Iterable[TrainedResponse]) -> float | None:
    """Segments of the true credit, per 60 tokens: runs of tokens with equal credit. `None` where it is not known.

    Example:
        >>> true_segments([TrainedResponse([True] * 6, [1, 1, 1, 1, -1, 1], +1)])
        30.0
    """
    runs = total = 0
    for response in responses:
        if response.credit is None:
            return None
        runs += len(list(groupby(response.credit)))
        total += len(response.credit)
    return 60 * runs / total


def kept_share(responses: Iterable[TrainedResponse]) -> float:
    """Share of tokens trained on.

    Example:
        >>> kept_share([TrainedResponse([True, False], [1, 1], +1), TrainedResponse([False, False], [1, 1], -1)])
        0.25
    """
    masks = [response.mask for response in responses]
    return sum(map(sum, masks)) / sum(map(len, masks))
