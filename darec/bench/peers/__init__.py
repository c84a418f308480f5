"""What darec's speed is measured beside: RecBole in an environment of its own, and a plain reference loop."""
