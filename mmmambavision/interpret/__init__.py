"""What a trained network looks at and how far it sees: attention, scans, receptive fields, class activations."""
