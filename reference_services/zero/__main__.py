"""`python -m reference_services.zero` runs zero in this process."""

from reference_services.zero.service import Zero

if __name__ == "__main__":
    Zero.run()
