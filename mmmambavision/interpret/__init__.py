"""Visualization of trained networks: attention maps, scan memory, receptive fields, class activation maps."""

__all__ = ['attention', 'cam', 'classifier', 'picture', 'plots', 'receptive_field', 'scan', 'tokens']
