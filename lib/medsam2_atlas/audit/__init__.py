"""Records who did what to which study."""
