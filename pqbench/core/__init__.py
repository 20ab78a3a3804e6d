"""What everyone speaks: contracts, files, records, errors. Standard library, NumPy, pydantic."""
