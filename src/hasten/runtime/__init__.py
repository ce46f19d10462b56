"""What runs when a pipeline runs: accelerations, views of networks, and the record of a generation."""
