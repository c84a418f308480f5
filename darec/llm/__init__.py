"""Language-model profiles: prompts, engines, and generation on a row ledger."""
