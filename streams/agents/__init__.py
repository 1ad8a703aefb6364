"""The Faust agents: events, feedback, policy."""
