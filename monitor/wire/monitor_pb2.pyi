from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterRunRequest(_message.Message):
    __slots__ = ("protocol_version", "registration", "sent_at")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    registration: Registration
    sent_at: float
    def __init__(self, protocol_version: _Optional[int] = ..., registration: _Optional[_Union[Registration, _Mapping]] = ..., sent_at: _Optional[float] = ...) -> None: ...

class RegisterRunResponse(_message.Message):
    __slots__ = ("protocol_version", "last_sequence", "max_request_bytes", "max_request_items")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_ITEMS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    last_sequence: int
    max_request_bytes: int
    max_request_items: int
    def __init__(self, protocol_version: _Optional[int] = ..., last_sequence: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_request_items: _Optional[int] = ...) -> None: ...

class Registration(_message.Message):
    __slots__ = ("run_id", "attempt", "name", "model", "base", "labels", "groups", "references", "criterion", "tolerances", "visible_dtype", "stored_dtypes", "library_versions", "resumed_from_step", "started_at", "parent", "planned_steps", "start", "base_squared_norm")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LibraryVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    CRITERION_FIELD_NUMBER: _ClassVar[int]
    TOLERANCES_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    STORED_DTYPES_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PLANNED_STEPS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    BASE_SQUARED_NORM_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    attempt: int
    name: str
    model: str
    base: Base
    labels: _containers.ScalarMap[str, str]
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    references: _containers.RepeatedCompositeFieldContainer[Reference]
    criterion: Criterion
    tolerances: _containers.RepeatedScalarFieldContainer[float]
    visible_dtype: str
    stored_dtypes: _containers.RepeatedScalarFieldContainer[str]
    library_versions: _containers.ScalarMap[str, str]
    resumed_from_step: int
    started_at: float
    parent: Parent
    planned_steps: int
    start: Start
    base_squared_norm: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, run_id: _Optional[str] = ..., attempt: _Optional[int] = ..., name: _Optional[str] = ..., model: _Optional[str] = ..., base: _Optional[_Union[Base, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ..., references: _Optional[_Iterable[_Union[Reference, _Mapping]]] = ..., criterion: _Optional[_Union[Criterion, _Mapping]] = ..., tolerances: _Optional[_Iterable[float]] = ..., visible_dtype: _Optional[str] = ..., stored_dtypes: _Optional[_Iterable[str]] = ..., library_versions: _Optional[_Mapping[str, str]] = ..., resumed_from_step: _Optional[int] = ..., started_at: _Optional[float] = ..., parent: _Optional[_Union[Parent, _Mapping]] = ..., planned_steps: _Optional[int] = ..., start: _Optional[_Union[Start, _Mapping]] = ..., base_squared_norm: _Optional[_Iterable[float]] = ...) -> None: ...

class Parent(_message.Message):
    __slots__ = ("run_id", "step")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    step: int
    def __init__(self, run_id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("id", "host", "process_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    host: str
    process_id: int
    def __init__(self, id: _Optional[str] = ..., host: _Optional[str] = ..., process_id: _Optional[int] = ...) -> None: ...

class Base(_message.Message):
    __slots__ = ("source", "fingerprint", "mode")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    source: str
    fingerprint: str
    mode: str
    def __init__(self, source: _Optional[str] = ..., fingerprint: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("layer", "module", "weights", "frozen_weights", "stack")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    layer: int
    module: str
    weights: int
    frozen_weights: int
    stack: str
    def __init__(self, layer: _Optional[int] = ..., module: _Optional[str] = ..., weights: _Optional[int] = ..., frozen_weights: _Optional[int] = ..., stack: _Optional[str] = ...) -> None: ...

class Reference(_message.Message):
    __slots__ = ("name", "weights")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    weights: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., weights: _Optional[_Iterable[int]] = ...) -> None: ...

class Criterion(_message.Message):
    __slots__ = ("bits", "atol")
    class Bits(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Atol(_message.Message):
        __slots__ = ("tolerance",)
        TOLERANCE_FIELD_NUMBER: _ClassVar[int]
        tolerance: float
        def __init__(self, tolerance: _Optional[float] = ...) -> None: ...
    BITS_FIELD_NUMBER: _ClassVar[int]
    ATOL_FIELD_NUMBER: _ClassVar[int]
    bits: Criterion.Bits
    atol: Criterion.Atol
    def __init__(self, bits: _Optional[_Union[Criterion.Bits, _Mapping]] = ..., atol: _Optional[_Union[Criterion.Atol, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("open", "item", "heartbeat", "items")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    open: Open
    item: Item
    heartbeat: Heartbeat
    items: Items
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., item: _Optional[_Union[Item, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., items: _Optional[_Union[Items, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("run_id", "attempt")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    attempt: int
    def __init__(self, run_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("sequence", "observation", "training_log", "finish")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    TRAINING_LOG_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    observation: Observation
    training_log: TrainingLog
    finish: Finish
    def __init__(self, sequence: _Optional[int] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., training_log: _Optional[_Union[TrainingLog, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ...) -> None: ...

class Items(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, items: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("step", "observed_at", "stride", "changed", "newly_changed", "reverted", "step_changed", "touched", "hidden", "non_finite", "changed_at", "references", "squared_norm", "max_abs", "host_seconds", "device_seconds", "monitor_bytes", "trained", "unmeasured", "synchronisation", "base_squared_norm", "verdict")
    STEP_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_AT_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    NEWLY_CHANGED_FIELD_NUMBER: _ClassVar[int]
    REVERTED_FIELD_NUMBER: _ClassVar[int]
    STEP_CHANGED_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    SQUARED_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    HOST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MONITOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    UNMEASURED_FIELD_NUMBER: _ClassVar[int]
    SYNCHRONISATION_FIELD_NUMBER: _ClassVar[int]
    BASE_SQUARED_NORM_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    step: int
    observed_at: float
    stride: int
    changed: _containers.RepeatedScalarFieldContainer[int]
    newly_changed: _containers.RepeatedScalarFieldContainer[int]
    reverted: _containers.RepeatedScalarFieldContainer[int]
    step_changed: _containers.RepeatedScalarFieldContainer[int]
    touched: _containers.RepeatedScalarFieldContainer[int]
    hidden: _containers.RepeatedScalarFieldContainer[int]
    non_finite: _containers.RepeatedScalarFieldContainer[int]
    changed_at: _containers.RepeatedCompositeFieldContainer[Counts]
    references: _containers.RepeatedCompositeFieldContainer[ReferenceCounts]
    squared_norm: _containers.RepeatedScalarFieldContainer[float]
    max_abs: _containers.RepeatedScalarFieldContainer[float]
    host_seconds: float
    device_seconds: float
    monitor_bytes: int
    trained: _containers.RepeatedScalarFieldContainer[int]
    unmeasured: _containers.RepeatedScalarFieldContainer[int]
    synchronisation: Synchronisation
    base_squared_norm: _containers.RepeatedScalarFieldContainer[float]
    verdict: Verdict
    def __init__(self, step: _Optional[int] = ..., observed_at: _Optional[float] = ..., stride: _Optional[int] = ..., changed: _Optional[_Iterable[int]] = ..., newly_changed: _Optional[_Iterable[int]] = ..., reverted: _Optional[_Iterable[int]] = ..., step_changed: _Optional[_Iterable[int]] = ..., touched: _Optional[_Iterable[int]] = ..., hidden: _Optional[_Iterable[int]] = ..., non_finite: _Optional[_Iterable[int]] = ..., changed_at: _Optional[_Iterable[_Union[Counts, _Mapping]]] = ..., references: _Optional[_Iterable[_Union[ReferenceCounts, _Mapping]]] = ..., squared_norm: _Optional[_Iterable[float]] = ..., max_abs: _Optional[_Iterable[float]] = ..., host_seconds: _Optional[float] = ..., device_seconds: _Optional[float] = ..., monitor_bytes: _Optional[int] = ..., trained: _Optional[_Iterable[int]] = ..., unmeasured: _Optional[_Iterable[int]] = ..., synchronisation: _Optional[_Union[Synchronisation, _Mapping]] = ..., base_squared_norm: _Optional[_Iterable[float]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("kind", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reason: str
    def __init__(self, kind: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Synchronisation(_message.Message):
    __slots__ = ("step", "previous_step", "changed")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STEP_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    step: int
    previous_step: int
    changed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, step: _Optional[int] = ..., previous_step: _Optional[int] = ..., changed: _Optional[_Iterable[int]] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("weights",)
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, weights: _Optional[_Iterable[int]] = ...) -> None: ...

class ReferenceCounts(_message.Message):
    __slots__ = ("intersection", "expected_intersection")
    INTERSECTION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_INTERSECTION_FIELD_NUMBER: _ClassVar[int]
    intersection: _containers.RepeatedScalarFieldContainer[int]
    expected_intersection: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, intersection: _Optional[_Iterable[int]] = ..., expected_intersection: _Optional[_Iterable[float]] = ...) -> None: ...

class TrainingLog(_message.Message):
    __slots__ = ("step", "logged_at", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    LOGGED_AT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    step: int
    logged_at: float
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., logged_at: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("outcome", "reason", "step", "finished_at", "ending", "stopped_by")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Finish.Outcome]
        OUTCOME_FINISHED: _ClassVar[Finish.Outcome]
        OUTCOME_FAILED: _ClassVar[Finish.Outcome]
    OUTCOME_UNSPECIFIED: Finish.Outcome
    OUTCOME_FINISHED: Finish.Outcome
    OUTCOME_FAILED: Finish.Outcome
    class Ending(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ENDING_UNSPECIFIED: _ClassVar[Finish.Ending]
        ENDING_COMPLETED: _ClassVar[Finish.Ending]
        ENDING_STOPPED: _ClassVar[Finish.Ending]
        ENDING_PREEMPTED: _ClassVar[Finish.Ending]
        ENDING_FAILED: _ClassVar[Finish.Ending]
    ENDING_UNSPECIFIED: Finish.Ending
    ENDING_COMPLETED: Finish.Ending
    ENDING_STOPPED: Finish.Ending
    ENDING_PREEMPTED: Finish.Ending
    ENDING_FAILED: Finish.Ending
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    STOPPED_BY_FIELD_NUMBER: _ClassVar[int]
    outcome: Finish.Outcome
    reason: str
    step: int
    finished_at: float
    ending: Finish.Ending
    stopped_by: str
    def __init__(self, outcome: _Optional[_Union[Finish.Outcome, str]] = ..., reason: _Optional[str] = ..., step: _Optional[int] = ..., finished_at: _Optional[float] = ..., ending: _Optional[_Union[Finish.Ending, str]] = ..., stopped_by: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sent_at", "unsent_items", "dropped_items", "training_ended")
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    UNSENT_ITEMS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_ENDED_FIELD_NUMBER: _ClassVar[int]
    sent_at: float
    unsent_items: int
    dropped_items: int
    training_ended: bool
    def __init__(self, sent_at: _Optional[float] = ..., unsent_items: _Optional[int] = ..., dropped_items: _Optional[int] = ..., training_ended: bool = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("acknowledgement", "rejection")
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    acknowledgement: Acknowledgement
    rejection: Rejection
    def __init__(self, acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., rejection: _Optional[_Union[Rejection, _Mapping]] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("sequence", "reason")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reason: str
    def __init__(self, sequence: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunSummary]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunSummary, _Mapping]]] = ...) -> None: ...

class RunSummary(_message.Message):
    __slots__ = ("registration", "state", "reason", "last_step", "last_observed_at", "observations", "exact_state", "thinned")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[RunSummary.State]
        STATE_RUNNING: _ClassVar[RunSummary.State]
        STATE_STALLED: _ClassVar[RunSummary.State]
        STATE_LOST: _ClassVar[RunSummary.State]
        STATE_FINISHED: _ClassVar[RunSummary.State]
        STATE_FAILED: _ClassVar[RunSummary.State]
        STATE_STOPPED: _ClassVar[RunSummary.State]
        STATE_PREEMPTED: _ClassVar[RunSummary.State]
    STATE_UNSPECIFIED: RunSummary.State
    STATE_RUNNING: RunSummary.State
    STATE_STALLED: RunSummary.State
    STATE_LOST: RunSummary.State
    STATE_FINISHED: RunSummary.State
    STATE_FAILED: RunSummary.State
    STATE_STOPPED: RunSummary.State
    STATE_PREEMPTED: RunSummary.State
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_OBSERVED_AT_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    EXACT_STATE_FIELD_NUMBER: _ClassVar[int]
    THINNED_FIELD_NUMBER: _ClassVar[int]
    registration: Registration
    state: RunSummary.State
    reason: str
    last_step: int
    last_observed_at: float
    observations: int
    exact_state: RunSummary.State
    thinned: Thinned
    def __init__(self, registration: _Optional[_Union[Registration, _Mapping]] = ..., state: _Optional[_Union[RunSummary.State, str]] = ..., reason: _Optional[str] = ..., last_step: _Optional[int] = ..., last_observed_at: _Optional[float] = ..., observations: _Optional[int] = ..., exact_state: _Optional[_Union[RunSummary.State, str]] = ..., thinned: _Optional[_Union[Thinned, _Mapping]] = ...) -> None: ...

class Thinned(_message.Message):
    __slots__ = ("every", "until_step", "removed")
    EVERY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_STEP_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    every: int
    until_step: int
    removed: int
    def __init__(self, every: _Optional[int] = ..., until_step: _Optional[int] = ..., removed: _Optional[int] = ...) -> None: ...

class ReadHistoryRequest(_message.Message):
    __slots__ = ("run_id", "after_step")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_STEP_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_step: int
    def __init__(self, run_id: _Optional[str] = ..., after_step: _Optional[int] = ...) -> None: ...

class ReadHistoryResponse(_message.Message):
    __slots__ = ("attempt", "item")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    item: Item
    def __init__(self, attempt: _Optional[int] = ..., item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...
