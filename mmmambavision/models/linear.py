"""Linear layers, fast on a CPU as well."""
import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Linear):
    """`nn.Linear` on tokens (B, L, C) that runs as a 1x1 convolution where that is faster.

    On a CPU torch gives convolutions in float32 to oneDNN and linear layers to BLAS, which is slower on some CPUs (a fifth
    on an AMD EPYC with MKL) and adds the bias in a pass of its own. Compiled and exported graphs have linear layers.
    """

    def forward(self, tokens):
        if tokens.device.type != 'cpu' or tokens.dtype != torch.float32 or torch.compiler.is_compiling():
            return F.linear(tokens, self.weight, self.bias)
        image = tokens.transpose(1, 2).unsqueeze(2)  # (B, C, 1, L), channels-last as it lies in memory
        return F.conv2d(image, self.weight[:, :, None, None], self.bias).squeeze(2).transpose(1, 2)
