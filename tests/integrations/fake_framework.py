"""Module that stands for a framework in the tests of the registry."""

import torch
from torch import Tensor


def double(x: Tensor, times: int = 2) -> Tensor:
    return x * times


def untouched(x: Tensor) -> Tensor:
    return x


class Head:
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad
