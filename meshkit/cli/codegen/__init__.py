"""The work behind `meshkit gen`: find protos, compile, mend imports, write clients, keep a folder current."""
