"""Texts in, scores out: language and stance of documents. Knows nothing of Beam."""
