"""The network: three encoders, a masking gate, cross-attention fusion, five heads.

Published description: project page, section 3. Shapes use B for the batch, D for the
embedding width 512.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets import resnet18
from torch import Tensor, nn

from .config import EMBEDDING_DIM, MODALITIES, SCORES
from .volumes import own_rows

HEADS = {"dx3": 3, "dx2": 2, "sex": 2, "age": 1, "cdrsb": 1}
DROP = {"t1": 0.10, "fa": 0.30, "clinical": 0.05}  # published masking probabilities


class MatrixConv(nn.Conv3d):
    """A convolution of volumes one to four voxels wide: on the CPU, one matrix product.

    oneDNN takes three times as long for so few voxels. With torch 2.13, its bf16 weight gradients
    are wrong there as well (norms of 1e35, then NaN), while forward pass and loss look right.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, X, Y, Z) -> (B, O, X', Y', Z')
        if x.device.type != "cpu":
            return super().forward(x)
        patches = F.pad(x, (int(self.padding[0]),) * 6)
        for axis in (2, 3, 4):
            patches = patches.unfold(axis, self.kernel_size[0], self.stride[0])
        rows = patches.movedim(1, -1).flatten(4)  # (B, X', Y', Z', taps * C)
        return F.linear(rows, self.weight.movedim(1, -1).flatten(1)).movedim(-1, 1)


class ImageEncoder(nn.Module):
    """3D ResNet-18, linear to 512, LayerNorm; the result is a unit vector.

    The first convolution has stride 2, as in torchvision's video ResNets and Med3D; with
    MONAI's default stride 1 a training step takes about six times as long. The features are
    centred and scaled by those of the batch (in use: of some train subjects) before the projection:
    what all brains share would make the embeddings of any two people begin nearly equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18(
            spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False
        )
        for part in self.backbone.layer4.modules():
            if isinstance(part, nn.Conv3d):
                part.__class__ = MatrixConv  # its first weights stay
        self.centre = nn.BatchNorm1d(512, affine=False)
        self.project = nn.Linear(512, EMBEDDING_DIM)
        self.norm = nn.LayerNorm(EMBEDDING_DIM)

    def forward(self, volume: Tensor) -> Tensor:  # (B, 1, X, Y, Z) -> (B, D)
        features = self.centre(self.backbone(volume))  # (B, 512)
        return F.normalize(self.norm(self.project(features)), dim=-1)


class ClinicalEncoder(nn.Module):
    """MLP over five standardised scores, a flag per score, and an APOE embedding.

    A missing score is 0 (the train mean) with its flag at 0, so that the network can tell
    'average' from 'unknown'.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apoe = nn.Embedding(4, 16)
        self.mlp = nn.Sequential(
            nn.Linear(2 * len(SCORES) + 16, 128),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(128, 256),
            nn.GELU(),
            nn.BatchNorm1d(256, affine=False),  # as in ImageEncoder
            nn.Linear(256, EMBEDDING_DIM),
        )

    def forward(self, scores: Tensor, known: Tensor, apoe: Tensor) -> Tensor:
        # scores (B, 5), known (B, 5) of 0 and 1, apoe (B,) of 0..3 -> (B, D)
        x = torch.cat([scores * known, known, self.apoe(apoe)], dim=-1)  # (B, 26)
        return F.normalize(self.mlp(x), dim=-1)


class Fusion(nn.Module):
    """A learnable query looks at the modality embeddings that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, EMBEDDING_DIM) * 0.02)
        self.modality = nn.Parameter(torch.randn(1, len(MODALITIES), EMBEDDING_DIM) * 0.02)
        self.attention = nn.MultiheadAttention(EMBEDDING_DIM, num_heads=8, batch_first=True)
        self.norm = nn.LayerNorm(EMBEDDING_DIM)
        self.mlp = nn.Sequential(
            nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM),
        )
        self.out = nn.LayerNorm(EMBEDDING_DIM)

    def forward(self, embeddings: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        # embeddings (B, 3, D), present (B, 3) bool -> z_fused (B, D), weights (B, 3)
        if not present.any(dim=1).all():
            row = int((~present.any(dim=1)).nonzero()[0, 0])
            raise ValueError(f"row {row} of the batch has none of {', '.join(MODALITIES)}")
        # Unit vectors have entries near 1/sqrt(D): scale them to the size of a token. What is
        # absent becomes 0 before attention masks it, so that not even a NaN gets through.
        tokens = torch.where(present[:, :, None], embeddings * EMBEDDING_DIM**0.5, 0)
        tokens = tokens + self.modality
        query = self.query.expand(len(tokens), -1, -1)
        pooled, weights = self.attention(query, tokens, tokens, key_padding_mask=~present)
        pooled = self.norm(pooled[:, 0])  # (B, D)
        return self.out(pooled + self.mlp(pooled)), weights[:, 0]


class Memoir(nn.Module):
    """The whole model, about 70 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.t1 = ImageEncoder()
        self.fa = ImageEncoder()
        self.clinical = ClinicalEncoder()
        self.fusion = Fusion()
        self.heads = nn.ModuleDict()
        for name, width in HEADS.items():
            self.heads[name] = nn.Sequential(
                nn.Linear(EMBEDDING_DIM, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, width)
            )
        # As 3D convolutions prefer it; volumes follow in `_encode_rows`.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode what is present; an absent modality costs nothing and stays zero.

        batch : t1, fa (B, 1, X, Y, Z); scores, known (B, 5); apoe (B,); present (B, 3) bool.
        Returns (B, 3, D) unit vectors in the order of MODALITIES, zero where absent.
        """
        present = batch["present"]
        columns = []
        for column, name in enumerate(MODALITIES):
            rows = present[:, column].nonzero()[:, 0]
            z = torch.zeros(len(present), EMBEDDING_DIM, device=present.device)
            if len(rows):
                z = z.index_copy(0, rows, self._encode_rows(name, batch, rows).to(z.dtype))
            columns.append(z)
        return torch.stack(columns, dim=1)

    def _encode_rows(self, name: str, batch: dict[str, Tensor], rows: Tensor) -> Tensor:
        encoder = getattr(self, name)
        # One subject has no batch statistics worth the name: use the running ones.
        encoder.train(self.training and len(rows) > 1)
        if name == "clinical":
            return encoder(batch["scores"][rows], batch["known"][rows], batch["apoe"][rows])
        return encoder(batch[name][rows].to(memory_format=torch.channels_last_3d))

    def forward(self, batch: dict[str, Tensor], keep: Tensor | None = None) -> dict[str, Tensor]:
        """Encode, mask, fuse, predict. ValueError for a row without any modality.

        batch : as for `encode`.
        keep : (B, 3) bool, what the masking gate lets through; None lets everything.

        Returns embeddings (B, 3, D), present (B, 3), z_fused (B, D), attention (B, 3), and a
        tensor per head: dx3 (B, 3), dx2 (B, 2), sex (B, 2), age (B,), cdrsb (B,); the last
        two in standard deviations of the train part.
        """
        present = batch["present"] if keep is None else batch["present"] & keep
        return self.fuse(self.encode({**batch, "present": present}), present)

    def fuse(self, embeddings: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Fuse ready embeddings (B, 3, D) and predict; see `forward`."""
        z_fused, attention = self.fusion(embeddings, present)
        heads = {name: head(z_fused) for name, head in self.heads.items()}
        out = {k: v[:, 0] if HEADS[k] == 1 else v for k, v in heads.items()}
        inputs = {"embeddings": embeddings, "present": present}
        return {**inputs, "z_fused": z_fused, "attention": attention, **out}


def masking_gate(
    present: Tensor, generator: torch.Generator, drop: dict[str, float] = DROP
) -> Tensor:
    """Decide at random which modalities a training step sees.

    Each one is dropped with its probability in `drop`. Where that would leave a subject with
    nothing, one of its modalities, drawn at random, is kept. present (B, 3) bool, generator on
    the CPU -> keep (B, 3) bool, of `present`, with at least one True per row.
    """
    there = present.cpu()
    n, width = there.shape
    draw = own_rows(n, width, generator)
    keep = there & (draw >= torch.tensor([drop[name] for name in MODALITIES]))
    spare = torch.where(there, own_rows(n, width, generator), -1).argmax(dim=1)
    empty = ~keep.any(dim=1)
    keep[empty, spare[empty]] = True
    return (keep & there).to(present.device)
