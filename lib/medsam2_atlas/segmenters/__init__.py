"""What turns a CT into a label map."""
