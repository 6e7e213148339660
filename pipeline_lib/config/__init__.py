"""What a run should do: one frozen model per stage, no I/O, unknown fields refused.

The same models are the parameters of the Prefect flows, so titles, descriptions, units and bounds
here are what the UI's form shows. A field that cannot change a stage's output (it only makes the
work faster, or says where it runs) is declared with `operational()` and stays out of fingerprints.
"""

from pipeline_lib.config.base import (
    BUNDLED_EMBEDDING_MODEL,
    BUNDLED_LANGUAGE_MODEL,
    NAME_PATTERN,
    SAMPLE_SOURCE,
    FrozenConfig,
    operational,
)
from pipeline_lib.config.batches import BatchArithmetic, BatchConfig, cut_batch
from pipeline_lib.config.contexts import (
    DISTRACTOR_ORIGINS,
    REJECTED_KINDS,
    ContextConfig,
    PreferenceConfig,
    TaskConfig,
)
from pipeline_lib.config.corpus import ChunkConfig, IngestConfig
from pipeline_lib.config.evaluation import EvaluateConfig, PromoteConfig
from pipeline_lib.config.flows import (
    AnswerConfig,
    ApprovalConfig,
    FanOutConfig,
    PipelineConfig,
)
from pipeline_lib.config.index import IndexConfig, MetadataIndex
from pipeline_lib.config.objectives import (
    OBJECTIVES,
    Objective,
    PreferenceTrainingConfig,
    PretrainingConfig,
    ReinforcementConfig,
    ScheduleConfig,
    SupervisedConfig,
)
from pipeline_lib.config.questions import GateConfig, JudgeConfig, QuestionConfig
from pipeline_lib.config.retrieval import (
    ExpandConfig,
    RerankConfig,
    RetrievalConfig,
    SearchFilter,
)
from pipeline_lib.config.retrieval_evaluation import RetrievalEvaluationConfig, SweepConfig
from pipeline_lib.config.retriever import (
    MiningConfig,
    PromoteRetrieverConfig,
    TuneRetrieverConfig,
)
from pipeline_lib.config.shares import normalized
from pipeline_lib.config.synthesis import SplitConfig, SynthesizeConfig
from pipeline_lib.config.teacher import BudgetConfig, PriceConfig, TeacherConfig
from pipeline_lib.config.training import (
    CheckpointConfig,
    EngineConfig,
    FinetuneConfig,
    LaunchConfig,
    LoraSettings,
    Method,
)

__all__ = [
    "BUNDLED_EMBEDDING_MODEL",
    "BUNDLED_LANGUAGE_MODEL",
    "DISTRACTOR_ORIGINS",
    "NAME_PATTERN",
    "OBJECTIVES",
    "REJECTED_KINDS",
    "SAMPLE_SOURCE",
    "AnswerConfig",
    "ApprovalConfig",
    "BatchArithmetic",
    "BatchConfig",
    "BudgetConfig",
    "CheckpointConfig",
    "ChunkConfig",
    "ContextConfig",
    "EngineConfig",
    "EvaluateConfig",
    "ExpandConfig",
    "FanOutConfig",
    "FinetuneConfig",
    "FrozenConfig",
    "GateConfig",
    "IndexConfig",
    "IngestConfig",
    "JudgeConfig",
    "LaunchConfig",
    "LoraSettings",
    "MetadataIndex",
    "Method",
    "MiningConfig",
    "Objective",
    "PipelineConfig",
    "PreferenceConfig",
    "PreferenceTrainingConfig",
    "PretrainingConfig",
    "PriceConfig",
    "PromoteConfig",
    "PromoteRetrieverConfig",
    "QuestionConfig",
    "ReinforcementConfig",
    "RerankConfig",
    "RetrievalConfig",
    "RetrievalEvaluationConfig",
    "ScheduleConfig",
    "SearchFilter",
    "SplitConfig",
    "SupervisedConfig",
    "SweepConfig",
    "SynthesizeConfig",
    "TaskConfig",
    "TeacherConfig",
    "TuneRetrieverConfig",
    "cut_batch",
    "normalized",
    "operational",
]
