"""MONAI Label's tasks: inference, training, scoring, the choice of the next case."""
