"""What people use today, as small programs that the harness runs as whole processes."""
