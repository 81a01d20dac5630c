"""Tables, statistics, plots and the page of an experiment."""
