"""What tests stand on: a real broker, a daemon to start and watch, waiting. Knows nothing of any one test."""
