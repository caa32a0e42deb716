"""The memories of a core, which stages and host share."""
