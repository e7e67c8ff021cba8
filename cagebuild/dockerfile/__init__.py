"""Reading and staging Dockerfiles: pure, no engine and no network."""
