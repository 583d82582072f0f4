"""The network, in torch alone."""
