"""What makes a teacher ask and answer, in the way that suits it, and what it is to ask about."""

from pipeline_lib.raft.writers.make import make_writer, writer_prompt_version
from pipeline_lib.raft.writers.topics import TopicPlanner

__all__ = ["TopicPlanner", "make_writer", "writer_prompt_version"]
