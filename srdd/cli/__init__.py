"""The command line. Only what a command needs is imported, and only when it runs."""
