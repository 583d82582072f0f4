"""Multi-scale deformable attention (Deformable DETR, equation 3) with ONNX's GridSample, and its users in mmdet.

mmdet keeps the sizes of the maps in a tensor, which an export would store as constants. Here they are a list of
(height, width). Modules with these replacements still work in mmdet.
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


class DeformableAttention(nn.Module):
    """mmcv's MultiScaleDeformableAttention for images without padding. The arguments are the same.

    Args:
        attention: mmcv's module.
    """

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.embed_dims = attention.embed_dims

    def forward(self, query, key=None, value=None, identity=None, query_pos=None, key_padding_mask=None,
                reference_points=None, spatial_shapes=None, **others):
        """New queries (B, Q, C).

        Args:
            query: (B, Q, C).
            value: all maps as one sequence, (B, sum of h * w, C), by default the query.
            identity: added to the output, by default the query.
            query_pos: added to the query, or None.
            reference_points: points (B, Q, levels, 2) or boxes (B, Q, levels, 4), from 0 to 1.
            spatial_shapes: (height, width) of each map.
            key, key_padding_mask, others: not used, because there is no padding.
        """
        own = self.attention
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        heads, levels, points = own.num_heads, own.num_levels, own.num_points
        values = own.value_proj(query if value is None else value).unflatten(2, (heads, -1))
        offsets = own.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
        weights = own.attention_weights(query).unflatten(2, (heads, levels * points)).softmax(-1)
        weights = weights.unflatten(3, (levels, points))
        total, start = 0., 0
        for level, (height, width) in enumerate(spatial_shapes):
            stop = start + height * width
            here = values[:, start:stop].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
            start, places, moves = stop, reference_points[:, :, None, None, level], offsets[:, :, :, level]
            if places.shape[-1] == 2:
                places = places + moves / sides(width, height, moves)
            else:
                places = places[..., :2] + moves / points * places[..., 2:] * .5
            # (B * heads, c, h, w) at (B * heads, Q, P, 2) gives (B * heads, c, Q, P)
            sampled = F.grid_sample(here, 2 * places.transpose(1, 2).flatten(0, 1) - 1, align_corners=False)
            total = total + (sampled * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        output = own.output_proj(total.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2))
        return own.dropout(output) + identity


def sides(width, height, like):
    """Width and height as a tensor (2,). `as_tensor` would store the size of the sample as a constant."""
    return torch.cat([like.new_full((1,), width), like.new_full((1,), height)])


def replace_attention(module):
    """Replace every MultiScaleDeformableAttention in a module by `DeformableAttention`."""
    for name, child in module.named_children():
        if type(child).__name__ == 'MultiScaleDeformableAttention':
            setattr(module, name, DeformableAttention(child))
        else:
            replace_attention(child)


def centres(sizes, like):
    """Centres (x, y) of all cells of each map, from 0 to 1, as one sequence (sum of h * w, 2)."""
    found = []
    for height, width in sizes:
        x = torch.arange(width, device=like.device).to(like) + .5
        y = torch.arange(height, device=like.device).to(like) + .5
        grid = torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], -1)
        found.append((grid / sides(width, height, like)).flatten(0, 1))
    return torch.cat(found)


def proposals(module, memory, sizes):
    """`gen_encoder_output_proposals` of mmdet's DeformableDETR without padding.

    If the maps have fewer cells than there are queries, invalid proposals are added. mmdet fails then.

    Args:
        module: the DeformableDETR.
        memory: output of the encoder, (1, N, C).
        sizes: (height, width) of each map.

    Returns:
        Features (1, M, C), and proposals (1, M, 4) before the sigmoid. Proposals near the border are invalid: they
        have the features of a zero input and infinite boxes.
    """
    points = centres(sizes, memory)
    scale = torch.cat([torch.full((height * width, 2), .05 * 2 ** level, dtype=memory.dtype, device=memory.device)
                       for level, (height, width) in enumerate(sizes)])
    boxes = torch.cat([points, scale], 1)[None]
    valid = ((boxes > .01) & (boxes < .99)).all(-1, keepdim=True)
    boxes = torch.where(valid, torch.log(boxes / (1 - boxes)), torch.inf)
    features = torch.where(valid, memory, 0.)
    missing = torch.sym_max(module.num_queries - memory.shape[1], 0)
    features = F.pad(features, (0, 0, 0, missing))
    return module.memory_trans_norm(module.memory_trans_fc(features)), F.pad(boxes, (0, 0, 0, missing), value=torch.inf)


class UnpaddedEncoding(nn.Module):
    """mmdet's SinePositionalEncoding of a mask (B, H, W) without padding, without a cumulative sum.

    Args:
        encoding: mmdet's module.
    """

    def __init__(self, encoding):
        super().__init__()
        self.encoding = encoding

    def forward(self, mask):
        return self.encoding(None, input=mask[:, None])


def decode_pixels(decoder, maps):
    """The forward of mmdet's MSDeformAttnPixelDecoder with `DeformableAttention`.

    Args:
        decoder: the MSDeformAttnPixelDecoder.
        maps: maps of the backbone, largest first, (B, C_i, H_i, W_i).

    Returns:
        Features of masks (B, C, H_0, W_0), and num_outs maps, smallest first.
    """
    levels = decoder.num_encoder_levels
    chosen = maps[::-1][:levels]
    sizes = [one.shape[2:] for one in chosen]
    projected = [convolution(one) for convolution, one in zip(decoder.input_convs, chosen)]
    sequence = torch.cat([one.flatten(2).transpose(1, 2) for one in projected], 1)
    positions = torch.cat([
        (decoder.postional_encoding(None, input=one) + decoder.level_encoding.weight[level][:, None, None])
        .flatten(2).transpose(1, 2) for level, one in enumerate(projected)], 1)
    points = centres(sizes, sequence)[None, :, None].expand(sequence.shape[0], -1, levels, -1)
    memory = decoder.encoder(
        query=sequence, query_pos=positions, key_padding_mask=None, spatial_shapes=sizes, level_start_index=None,
        valid_ratios=None, reference_points=points).transpose(1, 2)
    outs, start = [], 0
    for height, width in sizes:
        outs.append(memory[:, :, start:start + height * width].unflatten(2, (height, width)))
        start = start + height * width
    for index in reversed(range(len(maps) - levels)):
        lateral = decoder.lateral_convs[index](maps[index])
        upper = F.interpolate(outs[-1], lateral.shape[2:], mode='bilinear', align_corners=False)
        outs.append(decoder.output_convs[index](lateral + upper))
    return decoder.mask_feature(outs[-1]), outs[:decoder.num_outs]


def prepare_mask2former(head):
    """Replace the parts of a Mask2FormerHead that cannot be exported. Its `forward` then takes None as samples."""
    replace_attention(head)
    head.decoder_positional_encoding = UnpaddedEncoding(head.decoder_positional_encoding)
    head.pixel_decoder.forward = partial(decode_pixels, head.pixel_decoder)
