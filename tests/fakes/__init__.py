"""Stand-ins for the parts behind ports; each passes the same contract suite as the real part."""
