"""The MLflow store, and the journal beside each record that outlives it."""
