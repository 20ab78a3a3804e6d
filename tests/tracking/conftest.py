"""The fake records live beside the report's tests."""
