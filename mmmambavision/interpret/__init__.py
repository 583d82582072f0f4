"""What a trained network looks at and how far it sees: attention, scans, receptive fields, class activations."""

__all__ = ['attention', 'cam', 'classifier', 'picture', 'plots', 'receptive_field', 'scan', 'tokens']
