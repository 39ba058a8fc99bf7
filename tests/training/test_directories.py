from __future__ import annotations

from pathlib import Path

from trl import SFTConfig

from monitor.training.directories import own_directory


def test_what_is_pushed_to_a_hub_leaves_the_spool_out(tmp_path: Path) -> None:
    pushed = SFTConfig(output_dir=str(tmp_path), push_to_hub=True, use_cpu=True, bf16=False)
    assert own_directory(pushed) == "_sparsity_monitor"
