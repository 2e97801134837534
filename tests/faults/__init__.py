"""Everything that can go wrong with data, storage and process, what must come of it, and that nothing is ever lost."""
