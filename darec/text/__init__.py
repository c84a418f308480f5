"""Text: LLM profiles of items and users, and the vectors of these profiles."""
