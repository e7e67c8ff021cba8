"""Building a Dockerfile without RUN in this process."""
