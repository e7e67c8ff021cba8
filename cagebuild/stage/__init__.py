"""The image of a cage as a Dockerfile and the files that it copies: ``invoke stage``."""
