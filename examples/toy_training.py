"""What the trainings of the toy have in common: settings of every TRL trainer."""

from typing import Any

SETTINGS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    # The optimizer steps bfloat16 weights, as many RL runs do: an update of less than half the distance to the next
    # bfloat16 is rounded away at every step. Float32 weights add such updates up: GRPO would leave 12 % unchanged.
    "model_init_kwargs": {"dtype": "bfloat16"},
    "bf16": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "activation_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "logging_steps": 5,
    "disable_tqdm": True,
}
