"""Measuring ways to run a pipeline: samples, references, scores, confirmed numbers, and what they are made of."""
