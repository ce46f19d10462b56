"""The mechanism that every cache is made of: sites, gates, forecasters, and the memory that joins them."""
