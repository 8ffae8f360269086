"""Click-through-rate models at work: batches of click logs, and click logs made of interaction logs."""
