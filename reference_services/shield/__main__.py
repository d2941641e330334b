"""`python -m reference_services.shield` runs Shield in this process."""

from reference_services.shield.service import Shield

if __name__ == "__main__":
    Shield.run()
