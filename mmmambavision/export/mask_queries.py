"""mmdet's Mask2Former and MaskFormer as functions of one image."""
import torch
import torch.nn.functional as F

from ..errors import UserError
from .deformable import prepare_mask2former
from .detector import Detector

PIXEL_DECODERS = 'PixelDecoder', 'TransformerEncoderPixelDecoder'  # of MaskFormer


class MaskQueries(Detector):
    """RGB image (1, 3, H, W), 0 to 255, to class_logits (Q, classes + 1) and mask_logits (Q, h, w).

    Masks have the size of the backbone's first map. The steps after them differ for instance and panoptic segmentation
    and need loops, so `exported_detector.ExportedMaskFormer` runs them outside of the file.

    Args:
        model: mmdet's Mask2Former or MaskFormer. Parts of it are replaced. The model still works in mmdet.

    Raises:
        UserError: the head or its pixel decoder is of another type.
    """
    outputs = ('class_logits', 'mask_logits')

    def __init__(self, model):
        super().__init__(model)
        self.head = head = model.panoptic_head
        kinds = type(head).__name__, type(head.pixel_decoder).__name__
        if kinds == ('Mask2FormerHead', 'MSDeformAttnPixelDecoder'):
            self.decode = self.decode_mask2former
            prepare_mask2former(head)
        elif kinds[0] == 'MaskFormerHead' and kinds[1] in PIXEL_DECODERS:
            if self.preprocess.divisor != 1:
                raise UserError('a MaskFormer cannot be exported with padding, because its attention would need a '
                                'mask. Set model.data_preprocessor.pad_size_divisor=1')
            self.decode = self.decode_maskformer
        else:
            raise UserError(f'{kinds[0]} with {kinds[1]} cannot be exported whole. Export its backbone',
                            'part_backbone')

    def forward(self, image):
        classes, masks = self.decode(self.maps(image))
        return classes[-1][0], masks[-1][0]

    def decode_mask2former(self, maps):
        return self.head(maps, None)

    def decode_maskformer(self, maps):
        """The forward of mmdet's MaskFormerHead without padding: logits of all layers of the decoder."""
        head = self.head
        features, memory = decode_simple(head.pixel_decoder, maps)
        positions = head.decoder_pe(None, input=memory).flatten(2).transpose(1, 2)
        memory = head.decoder_input_proj(memory).flatten(2).transpose(1, 2)
        queries = head.query_embed.weight[None]
        states = head.transformer_decoder(query=torch.zeros_like(queries), key=memory, value=memory, query_pos=queries,
                                          key_pos=positions, key_padding_mask=None)
        return head.cls_embed(states), torch.einsum('lbqc,bchw->lbqhw', head.mask_embed(states), features)


def decode_simple(decoder, maps):
    """The forward of mmdet's PixelDecoder, or of its TransformerEncoderPixelDecoder without padding.

    Args:
        decoder: the pixel decoder.
        maps: maps of the backbone, largest first, (1, C_i, H_i, W_i).

    Returns:
        Features of masks (1, C, H_0, W_0), and the memory of the transformer (1, C', H_n, W_n).
    """
    if decoder.last_feat_conv is not None:
        memory, y = maps[-1], decoder.last_feat_conv(maps[-1])
    else:
        x = decoder.encoder_in_proj(maps[-1])
        positions = decoder.positional_encoding(None, input=x).flatten(2).transpose(1, 2)
        memory = decoder.encoder(query=x.flatten(2).transpose(1, 2), query_pos=positions, key_padding_mask=None)
        memory = memory.transpose(1, 2).unflatten(2, x.shape[2:])
        y = decoder.encoder_out_proj(memory)
    for index in reversed(range(decoder.num_inputs - 1)):
        lateral = decoder.lateral_convs[index](maps[index])
        y = decoder.output_convs[index](lateral + F.interpolate(y, lateral.shape[2:], mode='nearest'))
    return decoder.mask_feature(y), memory
