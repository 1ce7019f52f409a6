"""`python -m mpo.schemas`: write the schema files from the records."""

from mpo.schemas import write

if __name__ == "__main__":
    write()
