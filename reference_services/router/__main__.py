"""`python -m reference_services.router` runs the router in this process."""

from reference_services.router.service import Router

if __name__ == "__main__":
    Router.run()
