"""`meshkit top`: a live table of instances, from what each of them counts and what the registry says."""
