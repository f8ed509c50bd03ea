"""The emulator against the executable specification in `spec`, table by table and act by act."""
