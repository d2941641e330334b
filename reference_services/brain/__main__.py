"""Runs brain: `python -m reference_services.brain`."""

from reference_services.brain.service import Brain

if __name__ == "__main__":
    Brain.run()
