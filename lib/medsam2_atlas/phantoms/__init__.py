"""Synthetic abdominal CTs with label maps: a population of patients, scanned and labelled, from a seed."""
