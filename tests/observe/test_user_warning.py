from __future__ import annotations

import pytest
from torch import nn

from monitor.observe.observer import UpdateObserver


def test_a_warning_names_the_line_that_called_this_package() -> None:
    model = nn.Linear(3, 3)
    observer = UpdateObserver(model)
    model.register_parameter("late", nn.Parameter(model.bias.detach().clone()))
    with pytest.warns(UserWarning, match="added to the model after monitoring started") as warned:
        observer.follow(model)
    assert [warning.filename for warning in warned] == [__file__]
