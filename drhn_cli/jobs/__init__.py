"""What the commands do, one file a job: they join pictures, network and codes, and never print."""
