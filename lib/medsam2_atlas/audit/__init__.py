"""Records the actions of people on studies."""
