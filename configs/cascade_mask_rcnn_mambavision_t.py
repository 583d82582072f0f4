# Released recipe: box AP 51.2, mask AP 44.4.
_base_ = [
    '_base_/models/cascade_mask_rcnn.py', '_base_/datasets/coco_instance_multiscale.py',
    '_base_/schedules/adamw_3x.py', '_base_/coco_runtime.py'
]
