"""Who may use a server: files of tokens, read, checked and added to."""
