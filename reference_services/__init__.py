"""Services that teams can start from, written on meshkit's public face only."""
