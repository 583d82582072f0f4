_base_ = [
    '_base_/models/mask_rcnn.py', '_base_/datasets/coco_instance_multiscale.py',
    '_base_/schedules/adamw_3x.py', '_base_/coco_runtime.py'
]
