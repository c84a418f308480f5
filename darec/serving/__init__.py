"""From trained vectors to a release: bundle, index, recommendations, gate, releases."""
