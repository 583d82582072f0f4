_base_ = ['_base_/mask_rcnn.py', '_base_/coco_instance_3x.py']
