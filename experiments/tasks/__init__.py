"""Tasks beside classification: retrieval, grounding, masked words and questions."""
