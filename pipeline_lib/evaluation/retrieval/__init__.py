"""Retrieval measured by itself: queries, judgements, rankings, numbers, and a sweep of settings.

`judgements` reads what people have (BEIR, TREC, spans) or a dataset's own questions; `gold` says
which passages of a corpus that makes relevant; `exact` and `fusion` search in memory by Qdrant's
formulas, so that a sweep needs no server; `runs` writes what trec_eval and ir_measures read.
"""
