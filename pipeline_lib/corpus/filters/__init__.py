"""Which documents to leave out, and what to remove from the others.

Redaction comes first, segment by segment and before any offset is counted; the filters look at
the finished document. Patterns are typed and, where their kind has one, verified by its checksum,
so that a version number is not taken for an address, nor any sixteen digits for a card.
"""

from pipeline_lib.corpus.filters.apply import FilterOutcome, apply_filters, redact
from pipeline_lib.corpus.filters.language import identify_language

__all__ = ["FilterOutcome", "apply_filters", "identify_language", "redact"]
