"""The commands of `darec`, one thin file each. Heavy imports wait inside them: `darec status` answers in a second."""
