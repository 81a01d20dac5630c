"""Segmenters: everything that turns a CT into a label map."""
