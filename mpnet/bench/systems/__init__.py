"""The systems that are compared: each makes a device on a TAP that the embedded driver can drive."""
