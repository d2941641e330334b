"""`python -m reference_services.worker` runs one replica of the worker."""

from __future__ import annotations

from reference_services.worker.service import Worker

if __name__ == "__main__":
    Worker.run()
