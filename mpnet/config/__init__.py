"""What a user asks for: devices and control options from words, environment and file."""
