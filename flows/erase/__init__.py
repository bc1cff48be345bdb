"""The parts of an erasure (`flows.erase`): whom it is about, and what becomes of files and of the server."""
