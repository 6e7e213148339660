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
from pipeline_lib.config.corpus import ChunkConfig, IngestConfig
from pipeline_lib.config.evaluation import EvaluateConfig, PromoteConfig
from pipeline_lib.config.flows import AnswerConfig, PipelineConfig
from pipeline_lib.config.retrieval import IndexConfig, RetrievalConfig
from pipeline_lib.config.synthesis import SynthesizeConfig, TeacherConfig
from pipeline_lib.config.training import FinetuneConfig, LoraSettings

__all__ = [
    "BUNDLED_EMBEDDING_MODEL",
    "BUNDLED_LANGUAGE_MODEL",
    "NAME_PATTERN",
    "SAMPLE_SOURCE",
    "AnswerConfig",
    "ChunkConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "FrozenConfig",
    "IndexConfig",
    "IngestConfig",
    "LoraSettings",
    "PipelineConfig",
    "PromoteConfig",
    "RetrievalConfig",
    "SynthesizeConfig",
    "TeacherConfig",
    "operational",
]
