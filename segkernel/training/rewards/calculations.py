"""Rewards for right calculations that a response annotates as in `<<48/2=24>>`; no reward model is needed."""

import ast
import operator
import re
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.token_texts import token_texts
from segkernel.training.trainer.batches import Batch

ANNOTATION = re.compile(r"<<([^<>=]{1,100})=([^<>]*)>>")
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS: dict[type, Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
NUMBER = re.compile(r"-?\d*(?:\.(\d*))?")


def check_calculations(text: str) -> list[tuple[int, bool]]:
    """Annotated calculations of a text: the end of each, in characters, and whether it is right.

    A calculation is right if the stated result is the value of the expression, rounded to as many decimals as are
    stated. An annotation that is not arithmetic (`+ - * /` on numbers) is wrong.

    Example:
        >>> check_calculations("48/2 = <<48/2=24>>24, then <<24+1=26>>26, <<50/60=0.83>>0.83")
        [(18, True), (38, False), (56, True)]
    """
    return [(match.end(), _is_right(match[1], match[2].strip())) for match in ANNOTATION.finditer(text)]


class CalculationScorer:
    """`PrefixScorer`: number of right calculations in the prefix minus the number of wrong ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, batch: Batch) -> Tensor:
        input_ids, mask = batch["input_ids"].flatten(0, -2), batch["response_mask"].flatten(0, -2)
        scores = torch.zeros(mask.shape)
        for row, (ids, valid) in enumerate(zip(input_ids.cpu(), mask.cpu(), strict=True)):
            texts = token_texts(ids[valid].tolist(), self.tokenizer)
            ends = torch.tensor([len(text) for text in texts]).cumsum(0)
            scored = torch.zeros(len(texts))
            for end, right in check_calculations("".join(texts)):
                scored[ends >= end] += 1.0 if right else -1.0
            scores[row, valid] = scored
        return scores.to(mask.device)


def _is_right(expression: str, stated: str) -> bool:
    number = NUMBER.fullmatch(stated)
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        return number is not None and abs(value - float(stated)) <= 0.5 * 10.0 ** -len(number[1] or "") + 1e-9
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return False


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op, operand) if type(op) in SIGNS:
            return SIGNS[type(op)](_value(operand))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")
