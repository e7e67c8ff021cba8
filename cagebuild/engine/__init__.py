"""The engines that build Dockerfiles."""
