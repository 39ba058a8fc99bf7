"""The callback in ms-swift, by its name. Written for ms-swift 4.5.2.

SPARSITY_MONITOR_TARGET=localhost:50051 \\
    swift rlhf --rlhf_type grpo … --external_plugins examples/ms_swift_plugin.py --callbacks sparsity
"""

from swift.callbacks import callbacks_map

from monitor import SparsityCallback

# Called with the training's arguments and its trainer, which is not made yet: settings come from the environment.
callbacks_map["sparsity"] = lambda _args, _trainer: SparsityCallback()
