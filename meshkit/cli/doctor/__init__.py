"""`meshkit doctor`: looks at all that a mesh stands on, an area a module, and says what to mend."""
