# Released recipe: box AP 51.2, mask AP 44.4.
_base_ = ['_base_/cascade_mask_rcnn.py', '_base_/coco_instance_3x.py']
