"""Child processes: the fork server, stages and timed sessions."""
