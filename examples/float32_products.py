"""Lets a model with bfloat16 weights run at the speed of float32, on CPUs that have no bfloat16 arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Float32Products(TorchFunctionMode):
    """Within this context, linear layers multiply in float32 and round the result to bfloat16.

    So does hardware that has bfloat16 arithmetic. Without it, PyTorch multiplies bfloat16 matrices many times slower
    than float32 ones. Weights, gradients and what an optimizer does to them stay bfloat16.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function."""
        if function is functional.linear and not named and arguments[0].dtype is torch.bfloat16:
            return function(*(part if part is None else part.float() for part in arguments)).bfloat16()
        return function(*arguments, **(named or {}))
