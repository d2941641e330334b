"""Figures: what a process, its replicas and what they call have to show, in the form in which telemetry sends them."""
