"""zero: takes personal data out of a text before a model sees it, and puts them back into its answer."""
