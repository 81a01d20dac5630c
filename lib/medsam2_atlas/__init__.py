"""Pre-annotates 15 abdominal organs on CT: registered references prompt MedSAM2."""
