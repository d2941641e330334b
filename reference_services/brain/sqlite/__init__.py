"""Brain's rows in one SQLite file that several processes read and write at once."""
