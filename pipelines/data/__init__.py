"""Photos → shards and a manifest → a sample order → batches of LR/HR crops."""
