"""Web pages, pictures and words about what was measured; it takes plain data only."""
