"""Sums of templates: where they lie in a store, how they are added up, and where the sums go."""
