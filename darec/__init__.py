"""The library: everything darec computes, usable from a notebook, free of any orchestrator."""
