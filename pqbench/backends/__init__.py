"""One module per runtime; ``base`` says what a backend and a session are."""
