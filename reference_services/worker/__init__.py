"""Worker: durable work. Workflows that outlive the process that started them, and the Harvester."""
