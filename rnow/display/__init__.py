"""What people and programs see: the only modules that write to stdout and stderr."""
