# The released recipe with whole-map windows: nothing is padded, see docs/reproduce.md.
_base_ = 'upernet_mambavision_l3.py'

model = dict(backbone=dict(window_size=None))
