"""Datasets, each of which is one plain YAML: found, paired, split, read, kept, checked and mixed."""
